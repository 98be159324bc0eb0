"""`xattnres benchmark` with nnU-Net's own commands: killed, continued, reported."""

import json
import subprocess
import sys
import time

import pytest
from support.workspace import TRAINER

from nnunet_xattnres.benchmark.log import read_logs

STOCK, LONGER = "nnUNetTrainerTest", "nnUNetTrainerXAttnResTestResume"
RUN = f"xattnres benchmark run -d 4 -tr {STOCK} {LONGER} -f 1 --out benchmark --device cpu --workers 1"


def start(workspace):
    """The benchmark in a process of its own, to be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "nnunet_xattnres", *RUN.split()[1:]], env=workspace.env, cwd=workspace.root,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def processes_of(folder):
    """Command lines that name a folder."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if str(folder) in line and "nnUNetv2_train" in line]


@pytest.fixture(scope="module")
def finished(workspace):
    """Killed in the second epoch of the second training, then run to the end; the output of the second call."""
    process = start(workspace)
    second = workspace.model(4, "2d", LONGER) / "fold_1"
    while 0 not in read_logs(second).epochs:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    process.communicate()
    end = time.monotonic() + 30
    while (remaining := processes_of(workspace.root / "benchmark")) and time.monotonic() < end:
        time.sleep(0.1)
    assert not remaining
    assert not (second / "checkpoint_final.pth").exists()
    return workspace.run(RUN)


def test_a_killed_benchmark_continues(workspace, finished):
    (command,) = [line for line in finished.splitlines() if line.startswith("$ ")]
    assert command == f"$ nnUNetv2_train {workspace.dataset(4)} 2d 1 -tr {LONGER} -p nnUNetPlans -device cpu --c"
    assert "warning: " in finished  # one trainer has 1 epoch, the other 3
    log = read_logs(workspace.model(4, "2d", LONGER) / "fold_1")
    assert len(log.starts) == 2 and sorted(log.epochs) == [0, 1, 2]


def test_the_report_has_the_scores_of_nnunet(workspace, finished):
    (setting,) = json.loads((workspace.root / "benchmark/report/results.json").read_text())["settings"]
    assert not setting["missing"] and set(setting["trainers"]) == {STOCK, LONGER}
    for trainer in (STOCK, LONGER):
        file = workspace.model(4, "2d", trainer) / "fold_1" / "validation" / "summary.json"
        mean = json.loads(file.read_text())["mean"]
        for label, region in (("1", "Anterior"), ("2", "Posterior")):
            assert setting["trainers"][trainer]["regions"][region]["dice"] == pytest.approx(mean[label]["Dice"])
        assert setting["trainers"][trainer]["peak_memory_bytes"] > 2**27
        assert setting["trainers"][trainer]["seconds_per_epoch"] > 0


def test_nothing_is_repeated(workspace, finished, trained_2d):
    """Nor a training that was started by hand."""
    files = [*workspace.results.rglob("checkpoint_final.pth"), *workspace.results.rglob("summary.json")]
    before = {file: file.stat().st_mtime_ns for file in files}
    assert "$ " not in workspace.run(RUN)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    dry = workspace.run(f"xattnres benchmark run -d 4 -tr {LONGER} {TRAINER} -f 0 1 --device cpu --dry-run")
    remaining = [line.split(" -p ")[0].removeprefix("nnUNetv2_train ") for line in dry.splitlines() if "_train" in line]
    name = workspace.dataset(4)
    assert f"{name} 2d 1 -tr {TRAINER}" in remaining
    assert not {f"{name} 2d 0 -tr {TRAINER}", f"{name} 2d 1 -tr {LONGER}"} & {*remaining}


def test_status(workspace, finished):
    assert workspace.run("xattnres benchmark status --out benchmark").splitlines()[-1].startswith("2 trainings: 2 done")
