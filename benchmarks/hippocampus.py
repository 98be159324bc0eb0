#!/usr/bin/env python
"""A benchmark on Hippocampus as a user runs it, which is killed on its way and must come to a whole report.

python benchmarks/hippocampus.py WORK --data Task04_Hippocampus               on this machine
python benchmarks/hippocampus.py WORK --data Task04_Hippocampus --slurm       through Slurm

Converts and plans the dataset into WORK where that has not been done, starts `xattnres benchmark run` (2d, five folds,
stock and XAttnRes for 5 epochs of 25 iterations on the CPU), ends it with SIGKILL at random moments, and starts it
again; the last time it may finish. On Slurm a training is killed once, and once another is requeued by Slurm itself.
Says what happened and ends with 0 if the report is complete, if every training was trained once and only once to its
end, and if at least one went on from a checkpoint.
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from nnunet_xattnres.benchmark.grid import from_options, read_options
from nnunet_xattnres.benchmark.log import read_logs
from nnunet_xattnres.benchmark.place import Place
from nnunet_xattnres.nnunet import environment
from nnunet_xattnres.nnunet import run as run_nnunet

TRAINERS = ("nnUNetTrainerShort", "nnUNetTrainerXAttnResShort")
PLANS = "nnUNetPlansCPU"
MEMORY_TARGET = 0.07  # GB: nnU-Net fills the memory of a GPU, and a processor would take minutes for such a batch
FOLDS = 5
XATTNRES = str(Path(sysconfig.get_path("scripts")) / "xattnres")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything")
    parser.add_argument("--data", type=Path, required=True, help="Task04_Hippocampus of the Decathlon")
    parser.add_argument("--slurm", action="store_true", help="submit to the Slurm of this machine")
    parser.add_argument("--kills", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    env = environment(work, 1)
    env["nnUNet_extTrainer"] += os.pathsep + str(Path(__file__).resolve().parent / "trainers")
    os.environ |= env
    prepare(work, arguments.data.resolve(), env)
    rng = random.Random(arguments.seed)
    out = work / ("report_slurm" if arguments.slurm else "report_local")
    command = [XATTNRES, "benchmark", "run", "-d", "4", "-tr", *TRAINERS, "-p", PLANS, "--device", "cpu"]
    command += ["--workers", "1", "--out", str(out)]
    started = time.monotonic()
    (on_slurm if arguments.slurm else on_this_machine)(command, out, arguments.kills, rng)
    print(f"took {(time.monotonic() - started) / 60:.1f} minutes")
    return check(out)


def prepare(work: Path, data: Path, env: dict[str, str]) -> None:
    """Convert and plan, with batches for a CPU."""
    if not (work / "nnUNet_raw" / "Dataset004_Hippocampus").exists():
        run_nnunet(
            ["nnUNetv2_convert_MSD_dataset", "-i", str(data), "-overwrite_id", "4", "-np", "1"], env, work / "1.txt"
        )
    if not (work / "nnUNet_preprocessed" / "Dataset004_Hippocampus" / f"{PLANS}.json").exists():
        plan = f"nnUNetv2_plan_and_preprocess -d 4 -c 2d -np 1 -npfp 1 -gpu_memory_target {MEMORY_TARGET}"
        run_nnunet([*shlex.split(plan), "-overwrite_plans_name", PLANS, "--no_pp"], env, work / "plan.txt")


def on_this_machine(command: list[str], out: Path, kills: int, rng: random.Random) -> None:
    """Start, kill with SIGKILL, start again; what the killed one had started must be gone."""
    for n in range(kills):
        process = subprocess.Popen(command)
        seconds = rng.uniform(60, 300)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            time.sleep(2)
            print(f"kill {n + 1} after {seconds:.0f} s; nnUNetv2_train left: {trainings_alive()}", flush=True)
            assert not trainings_alive()
    code = subprocess.run(command).returncode
    print(f"exit code {code}")


def trainings_alive() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "nnUNetv2_train"], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


def on_slurm(command: list[str], out: Path, kills: int, rng: random.Random) -> None:
    """Submit; kill trainings of running jobs, have Slurm requeue others; submit what failed, until all is done."""
    command = [*command, "--slurm", "--time", "2:00", "--cpus", "1", "--parallel", "2"]
    subprocess.run(command, check=True)
    for n in range(kills):
        time.sleep(rng.uniform(60, 240))
        running = [line.split() for line in slurm("squeue", "--me", "-h", "-r", "-t", "R", "-o", "%i %j")]
        trainings = [job for job, name in running if name == "xattnres-train"]
        if n % 2 and trainings:
            job = rng.choice(trainings)
            slurm("scontrol", "requeue", job)
            print(f"requeued job {job}", flush=True)
        elif pids := trainings_alive():
            os.kill(int(rng.choice(pids)), signal.SIGKILL)
            print("killed a training", flush=True)
    while slurm("squeue", "--me", "-h"):
        time.sleep(5)
    subprocess.run(command, check=True)
    while slurm("squeue", "--me", "-h"):
        time.sleep(5)


def slurm(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def check(out: Path) -> int:
    """What the report has, and what the logs say of every training."""
    results = json.loads((out / "report" / "results.json").read_text())
    (setting,) = results["settings"]
    grid, place = from_options(read_options(out / "benchmark.json"), "benchmark.json"), Place.from_environment()
    continued = 0
    for run in grid.runs():
        log = read_logs(place.fold(run))
        assert sorted(log.epochs) == list(range(5)), f"{run}: epochs {sorted(log.epochs)}"
        continued += len(log.starts) > 1
    assert not setting["missing"], setting["missing"]
    assert set(setting["trainers"]) == set(TRAINERS)
    assert len(results["comparisons"]) == 5
    print(f"complete: {len(list(grid.runs()))} trainings, {continued} of them interrupted and continued")
    return 0 if continued else 1


if __name__ == "__main__":
    sys.exit(main())
