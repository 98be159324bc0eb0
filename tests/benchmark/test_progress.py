"""The estimate of the remaining work, the table of states, and the progress bar."""

import contextlib
import fcntl
import io
import threading
from dataclasses import replace

import pytest
from support.benchmark import (
    DATASET,
    epoch_lines,
    eventually,
    finish,
    make_folders,
    run_of,
    write_checkpoint,
    write_debug,
    write_log,
    write_splits,
)

from nnunet_xattnres.benchmark import progress as module
from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.progress import RemainingWork, estimate_remaining, format_status, progress, read_states
from nnunet_xattnres.benchmark.state import LOCK, State

CASES = ["a", "b", "c", "d"]
SHORT = Grid((DATASET,), ("T_5epochs", "U_5epochs"), folds=(0, 1))
STOCK = Grid((DATASET,), ("nnUNetTrainer", "nnUNetTrainerXAttnRes"), folds=(0, 1))


@pytest.fixture
def folders(tmp_path):
    folders = make_folders(tmp_path)
    write_splits(folders, [CASES[:2], CASES[2:]])
    return folders


def train(folders, run, epochs, seconds=10.0):
    """Write the log of a training with this number of epochs."""
    return write_log(folders.fold(run), [line for n in range(epochs) for line in epoch_lines(n, seconds=seconds)])


def make_state(stage="to train", epochs=0, num_epochs=None, seconds=None):
    return State(stage, epochs, num_epochs, seconds, False)


NEW = make_state(num_epochs=5)


# remaining work


@pytest.mark.parametrize("stage", ["done", "to validate", "different splits"])
def test_finished_trainings_have_no_remaining_epochs(stage):
    states = dict.fromkeys(SHORT.runs(), make_state(stage, 3, 5, 10.0))
    assert estimate_remaining(states) == RemainingWork(0, 0.0, 0)
    longer = dict.fromkeys(SHORT.runs(), make_state("started", 7, 5, 10.0))  # than the trainer's name promises
    assert estimate_remaining(longer) == estimate_remaining({run_of(): "unreadable"}) == RemainingWork(0, 0.0, 0)


def test_seconds_are_of_the_run_or_of_its_trainer_or_of_its_experiment():
    a, b, c, d = SHORT.runs()
    states = {a: make_state("done", 5, 5, 10.0), b: make_state("started", 2, 5, 20.0), c: NEW, d: NEW}
    assert estimate_remaining(states) == RemainingWork(3 + 5 + 5, 3 * 20.0 + 5 * 10.0 + 5 * 20.0, 0)
    states = {a: make_state("started", 4, 5, 10.0), b: NEW, c: NEW, d: NEW}
    assert estimate_remaining(states) == RemainingWork(1 + 15, 16 * 10.0, 0)
    assert estimate_remaining(dict.fromkeys(SHORT.runs(), NEW)) == RemainingWork(20, None, 0)


def test_seconds_of_another_experiment_do_not_count():
    """An epoch of 3d_fullres takes another time than one of 2d."""
    a, b, c, d = replace(SHORT, configurations=("2d", "3d_fullres"), folds=(0,)).runs()
    states = {a: make_state("done", 5, 5, 10.0), b: make_state("done", 5, 5, 10.0), c: NEW, d: NEW}
    assert estimate_remaining(states) == RemainingWork(10, None, 0)
    assert estimate_remaining(states | {c: make_state("started", 1, 5, 100.0)}) == RemainingWork(9, 900.0, 0)


def test_the_length_is_that_of_another_training_of_the_trainer():
    a, b, c, d = STOCK.runs()
    states = {a: make_state("started", 10, 1000, 2.0), b: make_state(), c: make_state(), d: make_state()}
    remaining = estimate_remaining(states)
    assert (remaining.epochs, remaining.unknown) == (990 + 1000, 2)


# the table


def cells(text):
    """Words that are separated by two spaces or more, line by line."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_columns_are_aligned(folders):
    header, *rows = format_status(SHORT, folders).splitlines()[:5]
    for title in ("trainer", "fold", "state"):
        at = header.index(title)
        assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)


def test_status(folders):
    grid = replace(SHORT, trainers=("T_5epochs", "U_5epochs", "V_5epochs"))
    runs = list(grid.runs())
    finish(folders, runs[0], CASES[:2])
    train(folders, runs[1], 2)
    write_checkpoint(folders.fold(runs[1]) / "checkpoint_best.pth")
    train(folders, runs[2], 5, 20.0)
    write_checkpoint(folders.fold(runs[2]) / "checkpoint_final.pth")
    train(folders, runs[3], 1, 12.25)
    folders.fold(runs[4]).mkdir(parents=True)
    (folders.fold(runs[4]) / "checkpoint_latest.pth").write_text("incomplete")
    finish(folders, runs[5], CASES[:2])
    with (folders.fold(runs[1]) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        table = format_status(grid, folders)
    *rows, _, (summary,) = cells(table)[1:]
    (problem,) = read_states(grid, folders)[runs[4]].problems
    assert "checkpoint_latest.pth" in problem
    assert rows == [
        [f"{DATASET}, 2d, nnUNetPlans", "T_5epochs", "0", "done", "5 of 5", "48.9"],
        ["U_5epochs", "0", "running", "2 of 5", "10.0"],
        ["V_5epochs", "0", "to validate", "5 of 5", "20.0"],
        ["T_5epochs", "1", "started", "1 of 5", "12.2"],
        ["U_5epochs", "1", f"to train ({problem})", "0 of 5"],
        ["V_5epochs", "1", "different splits", "5 of 5", "48.9"],
    ]
    counts = "6 trainings: 1 done, 1 running, 1 to validate, 1 started, 1 to train, 1 different splits."
    assert summary.startswith(f"{counts} 12 epochs ") and "0:02:09" in summary  # 3 of 10 s, 4 of 12.25 s, 5 of 10 s


def test_status_when_all_is_done(folders):
    for run in SHORT.runs():
        finish(folders, run, [CASES[:2], CASES[2:]][run.fold])
    assert format_status(SHORT, folders).endswith("\n\n4 trainings: 4 done.")


def test_status_of_splits_that_cannot_be_read(folders):
    grid = replace(SHORT, datasets=(DATASET, "Dataset005_B"), folds=(0,))
    path = folders.preprocessed / "Dataset005_B" / "splits_final.json"
    path.parent.mkdir()
    path.write_text("incomplete")
    states = read_states(grid, folders)
    assert [isinstance(found, str) for found in states.values()] == [False, False, True, True]
    text = format_status(grid, folders)
    assert str(path) in text and "4 trainings: 2 to train, 2 unreadable. 10 epochs " in text


def test_rows_are_grouped_by_experiment_and_repeat(folders):
    grid = replace(SHORT, configurations=("3d_fullres", "2d"), folds=(0,), repeats=2)
    rows = cells(format_status(grid, folders))[1:9]
    assert [row[0] for row in rows if len(row) == 5] == [
        f"{DATASET}, {configuration}, nnUNetPlans{repeat}"
        for configuration in ("2d", "3d_fullres")
        for repeat in ("", ", repeat 1")
    ]
    assert [row[-4] for row in rows] == list(grid.trainers) * 4


def test_the_time_needs_the_length_of_every_training(folders):
    """Most trainers do not have the length in their names, so it is known only when a training has started."""
    assert "4 trainings: 4 to train. 0 epochs remain, and 4 trainings" in format_status(STOCK, folders)
    train(folders, run_of("nnUNetTrainer"), 10, 36.0)
    write_debug(folders.fold(run_of("nnUNetTrainer")), num_epochs=1000)
    text = format_status(STOCK, folders)
    assert "1990 epochs remain, and 2 trainings" in text and "about" not in text
    for run in STOCK.runs():
        write_debug(folders.fold(run), num_epochs=1000)
    assert "3990 epochs remain: about 1 day, 15:54:00 " in format_status(STOCK, folders)


def test_states_of_jobs_on_a_cluster(folders):
    a, b, c, _ = SHORT.runs()
    table = cells(format_status(SHORT, folders, {str(a): "running", str(b): "pending", str(c): "to train"}))
    assert [row[-2] for row in table[1:5]] == ["to train, job running", "to train, job pending", "to train", "to train"]
    assert table[-1][0].startswith("4 trainings: 1 running, 3 to train.")


# the progress bar


class Terminal(io.StringIO):
    """A terminal as standard error; tests wait for text on it."""

    def isatty(self):
        return True

    def wait_for(self, text):
        assert eventually(lambda: text in self.getvalue()), self.getvalue()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    return Terminal()


def watchers():
    return [thread.name for thread in threading.enumerate() if "poll" in thread.name]


def test_a_bar_over_all_epochs(folders, terminal, capsys):
    a, b, *_ = SHORT.runs()
    finish(folders, a, CASES[:2])
    with contextlib.redirect_stderr(terminal), progress(SHORT, folders, shown=True) as echo:
        terminal.wait_for("5/20")
        echo("$ nnUNetv2_train")
        train(folders, b, 3)
        terminal.wait_for("8/20")
        assert "1 of 4 trainings done" in terminal.getvalue()
        finish(folders, b, CASES[:2])
        terminal.wait_for("10/20")
        terminal.wait_for("2 of 4 trainings done")
        assert watchers()
    assert not watchers()
    assert capsys.readouterr() == ("$ nnUNetv2_train\n", "")


def test_a_training_counts_in_full_without_its_logs(folders, terminal):
    a, b, *_ = SHORT.runs()
    for file in finish(folders, a, CASES[:2]).glob("training_log_*"):
        file.unlink()
    write_checkpoint(folders.fold(b) / "checkpoint_final.pth")
    with contextlib.redirect_stderr(terminal), progress(SHORT, folders, shown=True):
        terminal.wait_for("10/20")
        assert "1 of 4 trainings done" in terminal.getvalue()


def test_the_bar_ends_with_an_error(folders, terminal):
    with contextlib.redirect_stderr(terminal), pytest.raises(KeyboardInterrupt), progress(SHORT, folders, shown=True):
        terminal.wait_for("0/20")
        raise KeyboardInterrupt
    assert not watchers()


@pytest.mark.parametrize("shown", [True, False])
def test_only_lines_without_a_terminal(folders, capsys, shown):
    finish(folders, run_of("T_5epochs"), CASES[:2])
    with progress(SHORT, folders, shown) as echo:
        echo("$ nnUNetv2_train")
        assert capsys.readouterr() == ("$ nnUNetv2_train\n", "")
    assert capsys.readouterr() == ("", "")


def test_no_bar_where_nothing_is_trained(folders, terminal, capsys):
    with contextlib.redirect_stderr(terminal), progress(SHORT, folders, shown=False) as echo:
        echo("$ nnUNetv2_preprocess")
    assert terminal.getvalue() == ""
    assert capsys.readouterr().out == "$ nnUNetv2_preprocess\n"
