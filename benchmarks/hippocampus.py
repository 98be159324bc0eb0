#!/usr/bin/env python
"""Run a benchmark on Hippocampus, kill it at random moments, continue it, and check that its report is complete.

On this machine:
    python benchmarks/hippocampus.py WORK --data Task04_Hippocampus
On a cluster with Slurm:
    python benchmarks/hippocampus.py WORK --data Task04_Hippocampus --slurm
With a Slurm of one node that is started for this script:
    python tests/support/slurm.py python benchmarks/hippocampus.py WORK --data Task04_Hippocampus --slurm

The script converts and plans the dataset into the folder WORK unless this has been done. It starts `xattnres benchmark
run` (2d, five folds, stock nnU-Net and XAttnRes, 6 epochs of 50 iterations on the CPU, a quarter of the width), kills
it with SIGKILL at random moments, and starts it again; the last run may finish. With --slurm, it kills one training and
lets Slurm requeue another. The exit code is 0 if the report is complete, every epoch of every training was trained
once, and at least one training continued from a checkpoint.
"""

import argparse
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import from_options, read_options
from nnunet_xattnres.benchmark.log import read_logs
from nnunet_xattnres.utils.files import read_json, write_atomic
from nnunet_xattnres.utils.nnunet_cli import make_environment, run_command

TRAINERS = ("nnUNetTrainerShort", "nnUNetTrainerXAttnResShort")
EPOCHS = 6
PLANS = "nnUNetPlansCPU"
MEMORY_TARGET = 0.07  # GB: one batch that fills the memory of a GPU takes minutes on a CPU
FIRST_STAGE_CHANNELS = 8
XATTNRES = str(Path(sysconfig.get_path("scripts")) / "xattnres")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the folder for all files")
    parser.add_argument("--data", type=Path, required=True, help="the folder Task04_Hippocampus of the Decathlon")
    parser.add_argument("--slurm", action="store_true", help="submit the benchmark to Slurm")
    parser.add_argument("--kills", type=int, default=2, help="the number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the random moments (default: %(default)s)")
    arguments = parser.parse_args()
    work, mode = arguments.work.resolve(), "slurm" if arguments.slurm else "local"
    env = make_environment(work, 1)
    env["nnUNet_results"] = str(work / f"nnUNet_results_{mode}")
    env["nnUNet_extTrainer"] += os.pathsep + str(Path(__file__).resolve().parent / "trainers")
    env["OMP_WAIT_POLICY"] = "passive"  # otherwise trainings on the same cores wait for each other in busy loops
    Path(env["nnUNet_results"]).mkdir(exist_ok=True)
    os.environ |= env
    prepare(work, arguments.data.resolve(), env)
    rng = random.Random(arguments.seed)
    out = work / f"benchmark_{mode}"
    command = [XATTNRES, "benchmark", "run", "-d", "4", "-tr", *TRAINERS, "-p", PLANS, "--device", "cpu"]
    command += ["--workers", "1", "--out", str(out)]
    started = time.monotonic()
    (on_slurm if arguments.slurm else on_this_machine)(command, arguments.kills, rng)
    print(f"duration: {(time.monotonic() - started) / 60:.1f} minutes")
    return check(out)


def prepare(work: Path, data: Path, env: dict[str, str]) -> None:
    """Convert and plan the dataset, with batch sizes and widths for a CPU."""
    preprocessed = work / "nnUNet_preprocessed" / "Dataset004_Hippocampus"
    if not (work / "nnUNet_raw" / "Dataset004_Hippocampus").exists():
        convert = ["nnUNetv2_convert_MSD_dataset", "-i", str(data), "-overwrite_id", "4", "-np", "1"]
        run_command(convert, env, work / "convert.txt")
    if not (preprocessed / f"{PLANS}.json").exists():
        plan = f"nnUNetv2_plan_and_preprocess -d 4 -c 2d -np 1 -npfp 1 -gpu_memory_target {MEMORY_TARGET} --no_pp"
        run_command(shlex.split(plan), env, work / "plan.txt")
        plans = read_json(preprocessed / "nnUNetPlans.json", "nnU-Net's plans")
        network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
        network["features_per_stage"] = [FIRST_STAGE_CHANNELS * 2**stage for stage in range(network["n_stages"])]
        write_atomic(preprocessed / f"{PLANS}.json", json.dumps(plans | {"plans_name": PLANS}, indent=4))


def on_this_machine(command: list[str], kills: int, rng: random.Random) -> None:
    """Start the benchmark, kill it, and start it again. No training may survive the kill."""
    for n in range(kills):
        process = subprocess.Popen(command)
        seconds = rng.uniform(60, 300)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            wait_for_checkpoint(process)
            process.kill()
            process.wait()
            time.sleep(2)
            print(
                f"kill {n + 1} after {seconds:.0f} s; running nnUNetv2_train processes: {training_processes()}",
                flush=True,
            )
            assert not training_processes()
    code = subprocess.run(command).returncode
    print(f"exit code {code}")


def wait_for_checkpoint(process: subprocess.Popen, seconds: float = 600) -> None:
    """Wait until a training can be continued: nnU-Net has saved a checkpoint of it and not yet finished it."""
    results = Path(os.environ["nnUNet_results"])
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not any(results.rglob("checkpoint_latest.pth")):
        time.sleep(1)


def training_processes() -> list[str]:
    """The ids of running nnUNetv2_train processes, without those of their supervisors."""
    pattern = r"^\S+ \S*/nnUNetv2_train "
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()


def on_slurm(command: list[str], kills: int, rng: random.Random) -> None:
    """Submit the benchmark; kill a training or let Slurm requeue one; then submit what is left, and wait."""
    command = [*command, "--slurm", "--time", "2:00", "--cpus", "1", "--parallel", "2"]
    subprocess.run(command, check=True)
    for n in range(kills):
        time.sleep(rng.uniform(60, 300))
        running = [line.split() for line in slurm("squeue", "--me", "-h", "-r", "-t", "R", "-o", "%i %j")]
        trainings = [job for job, name in running if name == "xattnres-train"]
        if n % 2 and trainings:
            job = rng.choice(trainings)
            slurm("scontrol", "requeue", job)
            print(f"requeued job {job}", flush=True)
        elif pids := training_processes():
            pid = rng.choice(pids)
            training = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[2:5]
            os.kill(int(pid), signal.SIGKILL)
            print(f"killed nnUNetv2_train {' '.join(training)}", flush=True)
    wait_for_jobs()
    print("submitting the remaining tasks", flush=True)
    subprocess.run(command, check=True)
    wait_for_jobs()


def wait_for_jobs() -> None:
    while slurm("squeue", "--me", "-h"):
        time.sleep(5)


def slurm(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def check(out: Path) -> int:
    """Check the report and the logs of all trainings; returns the exit code."""
    results = json.loads((out / "report" / "results.json").read_text())
    (experiment,) = results["settings"]
    grid, folders = (
        from_options(read_options(out / "benchmark.json"), "benchmark.json"),
        NnUNetFolders.from_environment(),
    )
    runs = list(grid.runs())
    for run in runs:
        assert sorted(read_logs(folders.fold(run)).epochs) == list(range(EPOCHS)), f"{run}: epochs are missing"
    assert not experiment["missing"], experiment["missing"]
    assert set(experiment["trainers"]) == set(TRAINERS)
    assert len(results["comparisons"]) == 5
    num_continued = sum(was_continued(folders.fold(run)) for run in runs)
    print(f"complete: {len(runs)} trainings, {num_continued} of them continued from a checkpoint")
    return 0 if num_continued else 1


def was_continued(fold: Path) -> bool:
    """Whether one of the fold's logs starts with another epoch than 0."""
    first_epochs = [re.search(r": Epoch (\d+)", log.read_text()) for log in fold.glob("training_log_*.txt")]
    return any(first and int(first[1]) for first in first_epochs)


if __name__ == "__main__":
    sys.exit(main())
