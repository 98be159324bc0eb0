"""Tasks on this machine with miniature nnU-Net commands: results, slots, locks, failures and kills."""

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import miniature
from support.benchmark import (
    DATASET,
    EXPERIMENT,
    alive,
    eventually,
    finish,
    make_folders,
    run_of,
    write_checkpoint,
    write_data,
    write_plans,
    write_raw,
    write_splits,
)
from support.jobs import restore_signal_handlers
from support.trees import contents, snapshot

from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.local import Failure, make_slots, run_tasks, slug
from nnunet_xattnres.benchmark.locks import is_locked
from nnunet_xattnres.benchmark.state import LOCK, RECORD, read_state
from nnunet_xattnres.benchmark.tasks import (
    Predict,
    Prepare,
    RunOptions,
    Train,
    predict_tasks,
    prepare_tasks,
    train_tasks,
)
from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.paths import trainers_path

CASES, TESTS = [f"case_{number}" for number in range(6)], ["test_1", "test_2"]
GRID = Grid((DATASET,), ("T", "U"), folds=(0, 1))
RUNS = [f"{run.trainer} {run.fold}" for run in GRID.runs()]
EPOCHS = 4
COMMANDS = ("nnUNetv2_train", "nnUNetv2_plan_and_preprocess", "nnUNetv2_preprocess", "nnUNetv2_predict")


class Workplace:
    """nnU-Net's folders, and miniature commands that work in them."""

    def __init__(self, root: Path):
        self.root, self.folders, self.scripts = root, make_folders(root), root / "bin"
        self.folder, self.logs = root / "miniature", root / "out" / "logs"
        self.entry = f"WORKPLACE={root}"
        self.printed: list[str] = []
        self.scripts.mkdir()
        for name in COMMANDS:
            program = self.scripts / name
            command = f'{sys.executable} -I -S {miniature.__file__} {self.folder} {name} "$@"'
            program.write_text(f"#!/bin/sh\nexec {command}\n")
            program.chmod(0o755)
        for epoch in range(EPOCHS + 1):
            write_checkpoint(self.folder / "checkpoints" / f"{epoch}.pth", epoch)
        self.set()

    def set(self, seconds=0.0, fail=()):
        content = {"epochs": EPOCHS, "save_every": 2, "seconds": seconds, "fail": dict(fail)}
        (self.folder / "settings.json").write_text(json.dumps(content))

    def prepare(self):
        write_raw(self.folders, CASES, TESTS)
        write_plans(self.folders)
        write_data(self.folders, CASES)
        write_splits(self.folders, [CASES[:3], CASES[3:]])

    def journal(self, event):
        path = self.folder / "journal.jsonl"
        lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
        return [line for line in lines if line["event"] == event]

    def starts(self):
        """Number of starts of every training."""
        assert not self.journal("wrong")
        return collections.Counter(line["run"] for line in self.journal("start"))

    def run(self, tasks=None, slots=(None,), options=None):
        tasks = list(train_tasks(GRID)) if tasks is None else tasks
        return run_tasks(tasks, self.folders, options or RunOptions("cpu"), slots, self.logs, self.printed.append)

    def wait_until_all_are_gone(self):
        assert eventually(lambda: not alive(self.entry)), alive(self.entry)

    def check_done(self, grid=GRID):
        """Check the files of every training, and that no process and no lock is left."""
        self.wait_until_all_are_gone()
        final = (self.folder / "checkpoints" / f"{EPOCHS}.pth").read_bytes()
        for run in grid.runs():
            fold = self.folders.fold(run)
            assert (fold / "checkpoint_final.pth").read_bytes() == final
            assert not (fold / "checkpoint_latest.pth").exists()
            summary = json.loads((fold / "validation" / "summary.json").read_text())["metric_per_case"]
            assert [Path(case["prediction_file"]).stem for case in summary] == [CASES[:3], CASES[3:]][run.fold]
            assert eventually(lambda lock=fold / LOCK: not is_locked(lock))
        assert not self.journal("wrong")


@pytest.mark.parametrize(
    ("plans", "started", "blocked"),
    [("P", False, True), ("P", True, True), ("Q", False, False), ("Q", True, True)],
)
def test_tasks_that_a_failed_preparation_blocks(plans, started, blocked):
    """A preprocessing that was started may have emptied the data of other plans."""
    failure = Failure(Prepare(DATASET, plans, ("2d",)), "why", started)
    run = run_of(experiment=replace(EXPERIMENT, plans="P"))
    assert [failure.blocks(task) for task in (Train(run), Predict((run,)))] == [blocked] * 2
    assert not failure.blocks(Train(replace(run, experiment=replace(EXPERIMENT, dataset="Dataset009_Other"))))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A workplace without datasets; its processes are killed after the test."""
    workplace = Workplace(tmp_path)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(workplace.scripts))
    monkeypatch.setenv("WORKPLACE", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    yield workplace
    for pid in alive(workplace.entry):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def workplace(empty):
    """A workplace with a preprocessed dataset."""
    empty.prepare()
    return empty


def test_all_trainings(workplace):
    assert workplace.run() == []
    workplace.check_done()
    assert workplace.starts() == dict.fromkeys(RUNS, 1)
    assert [line["flags"] for line in workplace.journal("start")] == [["c"]] * len(RUNS)
    epochs = collections.Counter(line["epoch"] for line in workplace.journal("epoch"))
    assert epochs == dict.fromkeys(range(EPOCHS), len(RUNS))
    train = "{} -tr {} -p nnUNetPlans -device cpu --c"
    assert workplace.printed == [
        f"$ nnUNetv2_train {DATASET} 2d " + train.format(run.fold, run.trainer) for run in GRID.runs()
    ]


def test_a_second_call_does_nothing(workplace):
    workplace.run()
    before = snapshot(workplace.root)
    workplace.printed.clear()
    assert workplace.run() == []
    assert workplace.printed == []
    assert snapshot(workplace.root) == before


def test_environment_of_the_commands(workplace, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/my/trainers")
    monkeypatch.setenv("nnUNet_results", "/elsewhere")
    grid = replace(GRID, trainers=("T",), folds=(0,), repeats=2)
    assert workplace.run(list(train_tasks(grid))) == []
    workplace.check_done(grid)
    first, second = workplace.journal("start")
    fold = f"{DATASET}/T__nnUNetPlans__2d/fold_0"
    assert first["folder"] == str(workplace.folders.results / fold)
    assert second["folder"] == str(workplace.folders.results / "repeat_1" / fold)
    assert first["trainers"] == f"/my/trainers{os.pathsep}{trainers_path()}"
    assert first["gpus"] is None


def test_log_and_record_of_a_training(workplace):
    (task,) = train_tasks(replace(GRID, trainers=("T",), folds=(0,)))
    workplace.run([task])
    (log,) = workplace.logs.iterdir()
    assert log.read_text().startswith(f"$ {workplace.scripts}/nnUNetv2_train {DATASET} 2d 0 -tr T ")
    assert log.read_text().endswith("Training done.\n")
    (record,) = (workplace.folders.fold(task.run) / RECORD).read_text().splitlines()
    assert json.loads(record)["command"][1:4] == [DATASET, "2d", "0"]


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_failure_does_not_end_the_others(workplace, where):
    workplace.set(fail={"T 1": where})
    (failure,) = workplace.run(slots=[None, None])
    (log,) = workplace.logs.glob("*_T_fold_1.txt")
    name = f"{DATASET}, 2d, nnUNetPlans: T, fold 1"
    assert all(text in str(failure) for text in (name, str(log), "RuntimeError: CUDA out of memory"))
    assert {line["run"] for line in workplace.journal("end")} == {*RUNS} - {"T 1"}
    workplace.set()
    assert workplace.run() == []
    workplace.check_done()
    assert workplace.starts() == dict.fromkeys(RUNS, 1) | {"T 1": 2}
    assert workplace.journal("start")[-1]["flags"] == [{"training": "c", "validation": "val"}[where]]


def test_a_command_that_succeeds_without_its_results(workplace):
    workplace.set(fail={"U 0": "summary"})
    (failure,) = workplace.run()
    assert failure.task.run == run_of("U")
    (log,) = workplace.logs.glob("*_U_fold_0.txt")
    assert str(log) in failure.reason


def test_a_command_that_is_not_installed(workplace):
    (workplace.scripts / "nnUNetv2_train").unlink()
    failures = workplace.run()
    assert len(failures) == len(RUNS)
    assert all("pip install nnunetv2" in failure.reason for failure in failures)


def test_a_wrong_folder_does_not_end_the_others(workplace):
    finish(workplace.folders, run_of("T"), CASES[1:4])
    (failure,) = workplace.run()
    assert failure.task.run == run_of("T") and str(workplace.folders.fold(run_of("T"))) in failure.reason
    workplace.check_done(replace(GRID, folds=(1,)))
    assert set(workplace.starts()) == {*RUNS} - {"T 0"}


def test_a_folder_that_cannot_be_written_does_not_end_the_others(workplace):
    """An example is a link to a disk that is not mounted."""
    model = workplace.folders.model(run_of("T"))
    model.parent.mkdir()
    model.symlink_to("/no/such/disk")
    failures = workplace.run()
    assert [failure.task.run for failure in failures] == [run_of("T"), run_of("T", 1)]
    assert all(failure.reason and "\n" not in failure.reason for failure in failures)
    workplace.check_done(replace(GRID, trainers=("U",)))


@pytest.mark.parametrize(
    ("checkpoints", "flags", "epochs"),
    [
        ({}, ["c"], [0, 1, 2, 3]),
        ({"latest": 2, "best": 1}, ["c"], [2, 3]),
        ({"latest": -2, "best": 1}, ["c"], [1, 2, 3]),
        ({"final": -4, "latest": 2, "best": 4}, ["c"], [2, 3]),
        ({"final": -4, "best": 4}, ["c"], []),
        ({"latest": -2, "best": -1}, ["c"], [0, 1, 2, 3]),
        ({"final": 4, "latest": 2, "best": 4}, ["val"], []),
    ],
)
def test_a_training_continues(workplace, checkpoints, flags, epochs):
    """Checkpoints after these epochs; the file of a negative number is incomplete."""
    fold, torn = workplace.folders.fold(run_of("T")), {}
    fold.mkdir(parents=True)
    for name, epoch in checkpoints.items():
        content = (workplace.folder / "checkpoints" / f"{abs(epoch)}.pth").read_bytes()
        (fold / f"checkpoint_{name}.pth").write_bytes(content if epoch > 0 else content[: len(content) // 2])
        if epoch < 0:
            torn[f"checkpoint_{name}.broken1"] = content[: len(content) // 2]
    assert workplace.run([Train(run_of("T"))]) == []
    assert [line["flags"] for line in workplace.journal("start")] == [flags]
    assert [line["epoch"] for line in workplace.journal("epoch")] == epochs
    assert torn.items() <= contents(fold).items()
    assert len(workplace.printed) == 1 + len(torn)
    if flags == ["c"]:
        workplace.check_done(replace(GRID, trainers=("T",), folds=(0,)))


def test_from_planning_to_prediction(empty):
    write_raw(empty.folders, CASES, TESTS)
    (empty.folder / "plans.json").write_text(write_plans(empty.folders).read_text())
    empty.folders.plans(EXPERIMENT).unlink()
    write_splits(empty.folders, [CASES[:3], CASES[3:]])
    for tasks in (prepare_tasks, train_tasks, predict_tasks):
        assert empty.run(list(tasks(GRID))) == []
    started = [line.get("command") or line["run"] for line in empty.journal("start")]
    prepared = ["nnUNetv2_plan_and_preprocess", "nnUNetv2_preprocess"]
    assert started == [*prepared, *RUNS, "nnUNetv2_predict", "nnUNetv2_predict"]
    empty.check_done()
    before = snapshot(empty.root)
    for tasks in (prepare_tasks, train_tasks, predict_tasks):
        assert empty.run(list(tasks(GRID))) == []
    assert snapshot(empty.root) == before


def test_concurrent_preparation_of_two_plans(empty):
    """Two jobs of a cluster may do this. Both plans share the folder of cases, which nnU-Net empties first."""
    write_raw(empty.folders, CASES)
    (empty.folder / "plans.json").write_text(write_plans(empty.folders).read_text())
    empty.folders.plans(EXPERIMENT).unlink()
    empty.set(seconds=0.01)
    tasks = list(prepare_tasks(replace(GRID, plans=("nnUNetPlans", "nnUNetResEncUNetMPlans"))))
    assert empty.run(tasks, [None, None]) == []
    assert not empty.journal("wrong")
    assert not any(task.commands(empty.folders, RunOptions("cpu")) for task in tasks)


# slots


def test_one_training_per_gpu(workplace):
    workplace.set(seconds=0.005)
    grid = replace(GRID, trainers=("T", "U", "V"))
    slots = make_slots("cuda", ["0", "7"], 1, 1)
    assert workplace.run(list(train_tasks(grid)), slots, RunOptions("cuda")) == []
    workplace.check_done(grid)
    used = [line["gpus"] for line in workplace.journal("start")]
    assert len(used) == 6 and {*used[:2]} == {*used} == {"0", "7"}


def test_several_gpus_per_training(workplace):
    slots = make_slots("cuda", ["0", "1", "2", "3", "4"], 2, 1)
    assert workplace.run(None, slots, RunOptions("cuda", 2)) == []
    workplace.check_done()
    assert {line["gpus"] for line in workplace.journal("start")} == {"0,1", "2,3"}
    assert {line["num_gpus"] for line in workplace.journal("start")} == {"2"}


def test_a_slot_is_free_again_after_a_failure(workplace):
    workplace.set(fail={"T 0": "training", "U 0": "validation"})
    assert len(workplace.run(None, make_slots("cuda", ["0"], 1, 1), RunOptions("cuda"))) == 2
    assert len(workplace.journal("end")) == 2
    assert not workplace.journal("wrong")


@pytest.mark.parametrize(
    ("visible", "count", "gpus", "num_gpus", "expected"),
    [
        (None, 2, None, 1, [("0",), ("1",)]),
        (None, 5, None, 2, [("0", "1"), ("2", "3")]),
        ("", 1, None, 1, [("0",)]),
        ("3,1", 2, None, 1, [("3",), ("1",)]),
        ("GPU-7d2c,GPU-9a", 2, None, 2, [("GPU-7d2c", "GPU-9a")]),
        ("3,1", 2, ["5"], 1, [("5",)]),
        (None, 0, ["0", "1", "2"], 3, [("0", "1", "2")]),
    ],
)
def test_slots_of_gpus(monkeypatch, visible, count, gpus, num_gpus, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert make_slots("cuda", gpus, num_gpus, 7) == expected


@pytest.mark.parametrize(
    ("visible", "count", "gpus", "num_gpus", "available"),
    [(None, 0, None, 1, 0), ("", 0, None, 1, 0), ("-1", 0, None, 1, 0), ("2", 8, None, 2, 1), (None, 8, ["1"], 2, 1)],
)
def test_too_few_gpus(monkeypatch, visible, count, gpus, num_gpus, available):
    """-1 ends the list of devices, as in CUDA."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UserError, match=rf"{num_gpus} GPU.* {available} "):
        make_slots("cuda", gpus, num_gpus, 1)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_slots_without_gpus(device):
    assert make_slots(device, None, 1, 3) == [None, None, None]


# locks


def test_a_task_of_another_process_is_skipped(workplace):
    fold = workplace.folders.fold(run_of("T"))
    fold.mkdir(parents=True)
    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program, fold / LOCK], **pipes) as other:
        other.stdout.readline()
        (failure,) = workplace.run()
        assert failure.task.run == run_of("T") and "another process" in failure.reason
        assert set(workplace.starts()) == {*RUNS} - {"T 0"}
        other.communicate("\n")
    assert workplace.run() == []
    workplace.check_done()


def test_a_training_is_running_while_its_command_is(workplace):
    seen = []

    class Watched(Train):
        def end(self, folders):
            seen.append(read_state(self.run, folders).running)

    workplace.run([Watched(run_of("T"))])
    assert seen == [True]
    assert not read_state(run_of("T"), workplace.folders).running


# kills

DRIVER = """
import json, sys, sysconfig
from pathlib import Path
from nnunet_xattnres.cli import trainers
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.benchmark import local, tasks
from nnunet_xattnres.benchmark.grid import from_options
from nnunet_xattnres.benchmark.folders import NnUNetFolders

scripts, options, phase, jobs, logs = sys.argv[1:]
sysconfig.get_path = lambda name: scripts

def run(arguments):
    phase_tasks = list(getattr(tasks, f"{phase}_tasks")(from_options(json.loads(options), "")))
    folders = NnUNetFolders.from_environment()
    failures = local.run_tasks(phase_tasks, folders, tasks.RunOptions("cpu"), [None] * int(jobs), Path(logs), print)
    print(*failures, sep="\\n")
    return int(bool(failures))

trainers.run = run
raise SystemExit(main(["trainers"]))
"""


WITHOUT_UNIX = """
import filelock, sys  # filelock would use a substitute for Windows' locks
sys.path.insert(0, sys.argv.pop(1))
from support.windows import take_away
take_away()
import json, shutil, sysconfig
from pathlib import Path
from nnunet_xattnres.benchmark import commands, local, slurm, tasks
from nnunet_xattnres.benchmark.grid import from_options
from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.utils.errors import UserError

scripts, options, out = sys.argv[1:]
sysconfig.get_path = lambda name: scripts
benchmark = commands.Benchmark(from_options(json.loads(options), ""), NnUNetFolders.from_environment(), Path(out))
phases, options = commands.list_phases(benchmark.grid, True), tasks.RunOptions("cpu")
for phase in phases:
    assert not local.run_tasks(phase, benchmark.folders, options, [None], benchmark.out / "logs", print)
assert commands.status(benchmark) == commands.print_commands(benchmark, phases, options) == 0
shutil.which = lambda name: None
try:
    commands.run_on_slurm(benchmark, phases, options, slurm.SlurmOptions())
except UserError as error:
    print(error)
"""


def test_on_windows(workplace):
    """Everything is trained and predicted, its state is shown, and Slurm is not there."""
    tests, grid = Path(__file__).parents[1], replace(GRID, folds=(0,))
    options = json.dumps(grid.options())
    command = [sys.executable, "-c", WITHOUT_UNIX, tests, workplace.scripts, options, workplace.root / "out"]
    environment = os.environ | workplace.folders.environment()
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    workplace.check_done(grid)
    assert "2 trainings: 2 done." in result.stdout and "5 of 5 tasks are done" in result.stdout
    assert "sbatch was not found" in result.stdout.splitlines()[-1]


@pytest.fixture
def start(workplace):
    """Run a phase of the grid in another process."""
    started = []

    def run(jobs=2, phase="train"):
        grid = json.dumps(GRID.options())
        command = [sys.executable, "-c", DRIVER, workplace.scripts, grid, phase, str(jobs), workplace.logs]
        process = subprocess.Popen(
            command, env=os.environ | workplace.folders.environment(), start_new_session=True,
            preexec_fn=restore_signal_handlers,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_random_kills(workplace, start, kills):
    """After every kill no process is left, and the same command continues until all is done."""
    workplace.set(seconds=0.003)
    started, process = time.monotonic(), start()
    assert process.wait() == 0, process.communicate()
    seconds, rng, killed = time.monotonic() - started, random.Random(0), 0
    workplace.check_done()
    for number in range(kills):
        if all(read_state(run, workplace.folders).stage == "done" for run in GRID.runs()):
            (workplace.folders.results / DATASET).rename(workplace.root / f"results {number}")
        process = start(1 + number % 2)
        time.sleep(seconds * rng.random())
        killed += process.poll() is None
        process.kill()
        process.wait()
        workplace.wait_until_all_are_gone()
        assert not workplace.journal("wrong")
    assert killed > kills / 2
    process = start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    workplace.check_done()
    before = snapshot(workplace.root)
    assert start().communicate(timeout=120) == ("\n", "")
    assert snapshot(workplace.root) == before


@pytest.mark.parametrize("moment", ["epoch", "validated"])
def test_a_kill_loses_no_more_than_the_epochs_since_a_checkpoint(workplace, start, moment):
    workplace.set(seconds=0.05)
    process = start(1)
    wait_for(lambda: workplace.journal(moment), process)
    process.kill()
    process.wait()
    workplace.wait_until_all_are_gone()
    assert len(workplace.journal("end")) <= (moment == "validated")
    workplace.set()
    assert workplace.run(slots=[None, None]) == []
    workplace.check_done()
    per_epoch = collections.Counter((line["run"], line["epoch"]) for line in workplace.journal("epoch"))
    assert len(per_epoch) == len(RUNS) * EPOCHS
    assert sum(per_epoch.values()) <= len(per_epoch) + 1 + (moment == "validated")


@pytest.mark.parametrize("phase", ["prepare", "predict"])
def test_other_commands_start_from_scratch_after_a_kill(workplace, start, phase):
    """These commands have no checkpoints, and an existing file may be incomplete."""
    data = workplace.folders.preprocessed_dataset(EXPERIMENT) / "nnUNetPlans_2d"
    folder = data if phase == "prepare" else workplace.folders.model(run_of("T")) / "test_folds_0_1"
    for run in GRID.runs():
        finish(workplace.folders, run, [CASES[:3], CASES[3:]][run.fold])
    if phase == "prepare":
        (data / f"{CASES[0]}.pkl").unlink()
    names = [f"{case}{ending}" for case in CASES for ending in (".b2nd", "_seg.b2nd", ".pkl")]
    names = names if phase == "prepare" else [f"{case}.png" for case in TESTS]
    workplace.set(seconds=0.1)
    process = start(1, phase)
    wait_for(lambda: (folder / names[0]).exists() and (folder / names[0]).read_bytes() == b"12", process)
    process.kill()
    process.wait()
    workplace.wait_until_all_are_gone()
    assert not all((folder / name).exists() and (folder / name).read_bytes() == b"12" for name in names)
    for name in names:  # an earlier or an incomplete file
        (folder / name).write_bytes(b"1")
    workplace.set()
    process = start(1, phase)
    assert process.wait() == 0, process.communicate()
    assert all((folder / name).read_bytes() == b"12" for name in names)
    process = start(1, phase)
    assert process.communicate() == ("\n", "")


@pytest.mark.parametrize(
    ("number", "to_group"),
    [
        pytest.param(signal.SIGTERM, False),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True),
    ],
)
def test_signals(workplace, start, number, to_group):
    workplace.set(seconds=0.1)
    process = start()
    wait_for(lambda: len(workplace.journal("start")) == 2 and workplace.journal("epoch"), process)
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    workplace.wait_until_all_are_gone()
    assert "Traceback" not in err
    assert len(workplace.journal("start")) == 2 and not workplace.journal("end")
    workplace.set()
    assert workplace.run(slots=[None, None]) == []
    workplace.check_done()


def test_a_command_whose_supervisor_was_killed(workplace, start):
    """The command still trains, so the folder stays locked."""
    workplace.set(seconds=0.3)
    process = start(1)
    wait_for(lambda: workplace.journal("start"), process)
    (supervisor,) = [pid for pid, command in alive(workplace.entry).items() if "supervisor.py" in command]
    os.kill(supervisor, signal.SIGSTOP)
    process.kill()
    process.wait()
    os.kill(supervisor, signal.SIGKILL)
    (failure,) = workplace.run([Train(run_of("T"))])
    assert "another process" in failure.reason
    workplace.wait_until_all_are_gone()
    assert workplace.starts() == {"T 0": 1}
    workplace.check_done(replace(GRID, trainers=("T",), folds=(0,)))


def test_two_concurrent_calls(workplace, start):
    """The calls share the trainings, and no training is started twice."""
    workplace.set(seconds=0.02)
    processes = [start(2), start(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        failures = [line for line in out.splitlines() if line and not line.startswith("$ ")]
        assert all("another process" in line for line in failures), err
        assert process.returncode == bool(failures)
    assert workplace.starts() == dict.fromkeys(RUNS, 1)
    workplace.check_done()


def test_an_error_of_the_caller_kills_the_commands(workplace):
    """A closed terminal causes such an error."""
    workplace.set(seconds=0.05)

    def echo(line):
        workplace.printed.append(line)
        if len(workplace.printed) == 2:
            while len(workplace.journal("start")) < 1:
                time.sleep(0.01)
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_tasks(list(train_tasks(GRID)), workplace.folders, RunOptions("cpu"), [None, None], workplace.logs, echo)
    workplace.wait_until_all_are_gone()
    assert len(workplace.printed) < len(RUNS) and not workplace.journal("end")


# names and lines


def test_every_task_has_its_own_log():
    grid = Grid((DATASET, "Dataset005_B"), ("T", "U", "T_1"), ("2d", "3d_fullres"), ("P", "Q"), (0, 1, 10), 3)
    tasks = [*prepare_tasks(grid), *train_tasks(grid), *predict_tasks(grid)]
    names = {slug(task) for task in tasks}
    assert len(names) == len(tasks)
    assert all(name.replace("_", "").isalnum() for name in names)
    assert slug(Train(run_of("T"))) == f"{DATASET}_2d_nnUNetPlans_T_fold_0"
    assert slug(Prepare(DATASET, "P", ("2d",))) == f"prepare_{DATASET}_P"
    assert slug(Predict((run_of("T", repeat=1),))) == f"{DATASET}_2d_nnUNetPlans_T_test_cases_repeat_1"
