"""`xattnres benchmark run --slurm` on a real Slurm: it needs Slurm's programs."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from support.slurm import Cluster
from support.workspace import TRAINER

from nnunet_xattnres.benchmark.log import read_logs

pytestmark = pytest.mark.slurm

STOCK, LONGER = "nnUNetTrainerTest", "nnUNetTrainerXAttnResTestResume"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def benchmark(workspace, cluster, *arguments, code=0):
    process = subprocess.run(
        [sys.executable, "-m", "nnunet_xattnres", "benchmark", *arguments], env=workspace.env | cluster.env,
        cwd=workspace.root, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == code, process.stdout + process.stderr
    return process.stdout


def options(out, *trainers, folds=("0",)):
    grid = ["-d", "4", "-tr", *trainers, "-f", *folds, "--out", out]
    return [*grid, "--device", "cpu", "--workers", "1", "--slurm", "--time", "1:00", "--cpus", "1"]


def wait(cluster, condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, cluster.jobs()
        time.sleep(0.3)


def finish(cluster):
    """Wait until every job has ended, without Slurm's delay for requeued jobs."""

    def ended():
        if cluster.run("squeue -h -t PENDING -o %r").split().count("BeginTime"):
            cluster.start_requeued_jobs()
        return not cluster.run("squeue -h")

    wait(cluster, ended)


def missing(workspace, out):
    (setting,) = json.loads((workspace.root / out / "report" / "results.json").read_text())["settings"]
    return setting["missing"]


def fold(workspace, trainer, number=0):
    return workspace.model(4, "2d", trainer) / f"fold_{number}"


def epochs(workspace, trainer, number=0):
    return read_logs(fold(workspace, trainer, number)).epochs


def test_train_then_report(workspace, cluster):
    command = ["run", *options("plain", STOCK, TRAINER, folds=("2", "3"))]
    output = benchmark(workspace, cluster, *command)
    assert "4 x train: job " in output and "report, " in output
    output = benchmark(workspace, cluster, *command)
    assert "x train" not in output and "pending or running" in output
    assert "job" in benchmark(workspace, cluster, "status", "--out", "plain")
    finish(cluster)
    assert missing(workspace, "plain") == []
    output = benchmark(workspace, cluster, *command)
    assert "job " not in output and "Report: " in output


@pytest.mark.parametrize("number", [0, 1], ids=["requeued by Slurm", "signal before the time limit"])
def test_a_requeued_training_continues(workspace, cluster, number):
    out = f"requeued_{number}"
    benchmark(workspace, cluster, "run", *options(out, STOCK, LONGER, folds=(str(number),)))
    jobs = json.loads((workspace.root / out / "slurm" / "jobs.json").read_text())
    (job,) = (job for name, job in jobs.items() if LONGER in name)
    wait(cluster, lambda: 0 in epochs(workspace, LONGER, number))
    cluster.run(f"scontrol requeue {job}" if number == 0 else f"scancel --signal=USR2 {job}")
    finish(cluster)
    assert missing(workspace, out) == []
    log = read_logs(fold(workspace, LONGER, number))
    assert len(log.starts) == 2 and sorted(log.epochs) == [0, 1, 2]


def test_a_killed_training_is_submitted_again(workspace, cluster):
    command = options("killed", STOCK, LONGER, folds=("4",))
    benchmark(workspace, cluster, "run", *command)
    wait(cluster, lambda: 0 in epochs(workspace, LONGER, 4))
    time.sleep(random.Random(0).random())
    pids = subprocess.run(
        ["pgrep", "-f", f"nnUNetv2_train {workspace.dataset(4)} 2d 4 -tr {LONGER}"], capture_output=True, text=True
    ).stdout
    for pid in pids.split():
        os.kill(int(pid), signal.SIGKILL)
    finish(cluster)
    assert any(LONGER in line for line in missing(workspace, "killed"))
    assert "1 x train" in benchmark(workspace, cluster, "run", *command)
    finish(cluster)
    assert missing(workspace, "killed") == []


def test_a_rejected_job(workspace, cluster):
    process = subprocess.run(
        [sys.executable, "-m", "nnunet_xattnres", "benchmark", "run", *options("rejected", STOCK, LONGER, folds=("3",)),
         "--partition", "nowhere"],
        env=workspace.env | cluster.env, cwd=workspace.root, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 2
    (line,) = process.stderr.strip().splitlines()
    assert "Slurm" in line and "--partition" in line
