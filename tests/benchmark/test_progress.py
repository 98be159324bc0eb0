"""How far a benchmark is and what is left of it, in words and as a bar."""

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
from nnunet_xattnres.benchmark.progress import RemainingWork, estimate_remaining, progress, read_states, status
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
    """The log of so many epochs."""
    return write_log(folders.fold(run), [line for n in range(epochs) for line in epoch_lines(n, seconds=seconds)])


def make_state(stage="to train", epochs=0, num_epochs=None, seconds=None):
    return State(stage, epochs, num_epochs, seconds, False)


NEW = make_state(num_epochs=5)


# what is left


def test_nothing_is_left():
    done = {run: make_state("done", 5, 5, 10.0) for run in SHORT.runs()}
    assert estimate_remaining(done) == RemainingWork(0, 0.0, 0)
    # trained, whatever has become of its logs
    trained = make_state("to validate", 3, 5, 10.0)
    assert estimate_remaining(dict.fromkeys(SHORT.runs(), trained)) == RemainingWork(0, 0.0, 0)


def test_epochs_that_are_left():
    a, b, c, d = SHORT.runs()
    states = {
        a: make_state("done", 5, 5, 10.0),
        b: make_state("started", 2, 5, 20.0),
        c: NEW,
        d: NEW,
    }
    assert estimate_remaining(states) == RemainingWork(3 + 5 + 5, 3 * 20.0 + 5 * 10.0 + 5 * 20.0, 0)


def test_the_pace_of_another_trainer_until_there_is_one():
    a, b, c, d = SHORT.runs()
    states = {a: make_state("started", 4, 5, 10.0), b: NEW, c: NEW, d: NEW}
    assert estimate_remaining(states) == RemainingWork(1 + 15, 16 * 10.0, 0)


def test_the_pace_of_another_setting_is_none():
    """An epoch of 3d_fullres takes another time than one of 2d."""
    grid = replace(SHORT, configurations=("2d", "3d_fullres"), folds=(0,))
    a, b, c, d = grid.runs()
    states = {
        a: make_state("done", 5, 5, 10.0),
        b: make_state("done", 5, 5, 10.0),
        c: NEW,
        d: NEW,
    }
    assert estimate_remaining(states) == RemainingWork(10, None, 0)
    assert estimate_remaining(states | {c: make_state("started", 1, 5, 100.0)}) == RemainingWork(9, 900.0, 0)


def test_no_pace_before_the_first_epoch():
    assert estimate_remaining(dict.fromkeys(SHORT.runs(), NEW)) == RemainingWork(20, None, 0)


def test_lengths_that_another_training_of_the_trainer_tells():
    a, b, c, d = STOCK.runs()
    states = {a: make_state("started", 10, 1000, 2.0), b: make_state(), c: make_state(), d: make_state()}
    found = estimate_remaining(states)
    assert (found.epochs, found.unknown) == (990 + 1000, 2)


def test_what_cannot_be_read_is_not_left():
    a, *_ = SHORT.runs()
    assert estimate_remaining({a: "a line that says why"}) == RemainingWork(0, 0.0, 0)
    assert estimate_remaining({a: make_state("different splits", 2, 5, 1.0)}) == RemainingWork(0, 0.0, 0)


def test_a_training_that_is_longer_than_its_name_says():
    a, *_ = SHORT.runs()
    assert estimate_remaining({a: make_state("started", 7, 5, 10.0)}) == RemainingWork(0, 0.0, 0)


# in words


def test_status_of_a_new_benchmark(folders):
    expected = f"""\
                                     trainer    fold  state     epochs  s an epoch
{DATASET}, 2d, nnUNetPlans  T_5epochs  0     to train  0 of 5
                                     U_5epochs  0     to train  0 of 5
                                     T_5epochs  1     to train  0 of 5
                                     U_5epochs  1     to train  0 of 5

4 trainings: 4 to train. 20 epochs are left; how long they take is not known before the first."""
    assert squeezed(status(SHORT, folders)) == squeezed(expected)


def squeezed(text):
    """Columns apart by two spaces, however wide they are."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_columns_are_aligned(folders):
    header, *rows = status(SHORT, folders).splitlines()[:5]
    for title in ("trainer", "fold", "state"):
        at = header.index(title)
        assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)


def test_status(folders):
    runs = list(replace(SHORT, trainers=("T_5epochs", "U_5epochs", "V_5epochs")).runs())
    finish(folders, runs[0], CASES[:2])
    train(folders, runs[1], 2)
    write_checkpoint(folders.fold(runs[1]) / "checkpoint_best.pth")
    train(folders, runs[2], 5, 20.0)
    write_checkpoint(folders.fold(runs[2]) / "checkpoint_final.pth")
    train(folders, runs[3], 1, 12.25)
    (folders.fold(runs[4]) / "checkpoint_latest.pth").parent.mkdir(parents=True)
    (folders.fold(runs[4]) / "checkpoint_latest.pth").write_text("torn")
    finish(folders, runs[5], CASES[:2])
    with (folders.fold(runs[1]) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = status(replace(SHORT, trainers=("T_5epochs", "U_5epochs", "V_5epochs")), folders)
    assert squeezed(said) == [
        ["trainer", "fold", "state", "epochs", "s an epoch"],
        [f"{DATASET}, 2d, nnUNetPlans", "T_5epochs", "0", "done", "5 of 5", "48.9"],
        ["U_5epochs", "0", "running", "2 of 5", "10.0"],
        ["V_5epochs", "0", "to validate", "5 of 5", "20.0"],
        ["T_5epochs", "1", "started", "1 of 5", "12.2"],
        ["U_5epochs", "1", "to train (checkpoint_latest.pth is torn)", "0 of 5"],
        ["V_5epochs", "1", "different splits", "5 of 5", "48.9"],
        [],
        [
            "6 trainings: 1 done, 1 running, 1 to validate, 1 started, 1 to train, 1 different splits. 12 epochs are left: "
            "about 0:02:09 one after another, without validation."
        ],
    ]  # 3 of 10 s, 4 of 12.25 s, 5 of 10 s


def test_status_when_all_is_done(folders):
    for run in SHORT.runs():
        finish(folders, run, [CASES[:2], CASES[2:]][run.fold])
    assert status(SHORT, folders).endswith("\n\n4 trainings: 4 done.")


def test_status_of_splits_that_cannot_be_read(folders):
    """The other datasets are told all the same."""
    grid = replace(SHORT, datasets=(DATASET, "Dataset005_B"), folds=(0,))
    path = folders.preprocessed / "Dataset005_B" / "splits_final.json"
    path.parent.mkdir()
    path.write_text("torn")
    states = read_states(grid, folders)
    assert [isinstance(found, str) for found in states.values()] == [False, False, True, True]
    said = status(grid, folders)
    assert f"T_5epochs  0     {path} cannot be read as nnU-Net's splits" in said
    assert "4 trainings: 2 to train, 2 unreadable. 10 epochs are left; " in said


def test_settings_and_repeats_are_together(folders):
    grid = replace(SHORT, configurations=("3d_fullres", "2d"), folds=(0,), repeats=2)
    rows = squeezed(status(grid, folders))[1:9]
    names = [row[0] for row in rows if len(row) == 5]
    assert names == [
        f"{DATASET}, 2d, nnUNetPlans",
        f"{DATASET}, 2d, nnUNetPlans, repeat 1",
        f"{DATASET}, 3d_fullres, nnUNetPlans",
        f"{DATASET}, 3d_fullres, nnUNetPlans, repeat 1",
    ]
    assert [row[-4] for row in rows] == list(grid.trainers) * 4


def test_no_time_is_told_before_lengths_are_known(folders):
    """The names of nnUNetTrainer and most others do not tell them, and nothing has been trained."""
    told = "0 epochs are left, and those of 4 trainings whose length is not known before they start."
    assert status(STOCK, folders).endswith(f"\n\n4 trainings: 4 to train. {told}")
    train(folders, run_of("nnUNetTrainer"), 10)
    write_debug(folders.fold(run_of("nnUNetTrainer")), num_epochs=1000)
    assert "1990 epochs are left, and those of 2 trainings whose length is not known" in status(STOCK, folders)
    assert "about" not in status(STOCK, folders)


def test_lengths_of_trainings_that_have_begun(folders):
    for run in STOCK.runs():
        write_debug(folders.fold(run), num_epochs=1000)
    train(folders, run_of("nnUNetTrainer"), 10, 36.0)
    assert "3990 epochs are left: about 1 day, 15:54:00 one after another" in status(STOCK, folders)


def test_states_of_jobs_on_a_cluster(folders):
    a, b, c, _ = SHORT.runs()
    jobs = {str(a): "running", str(b): "pending", str(c): "to train"}
    said = squeezed(status(SHORT, folders, jobs))
    assert [row[-2] for row in said[1:5]] == ["to train, job running", "to train, job pending", "to train", "to train"]
    assert said[-1][0].startswith("4 trainings: 1 running, 3 to train.")


# the bar


class Terminal(io.StringIO):
    """In place of stderr; tests wait for what is shown on it."""

    def isatty(self):
        return True

    def wait_for(self, text):
        assert eventually(lambda: text in self.getvalue()), self.getvalue()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.01)
    return Terminal()


def watchers():
    return [thread.name for thread in threading.enumerate() if "look" in thread.name]


def test_a_bar_over_all_epochs(folders, terminal, capsys):
    a, b, *_ = SHORT.runs()
    finish(folders, a, CASES[:2])
    with contextlib.redirect_stderr(terminal), progress(SHORT, folders, shown=True) as tell:
        terminal.wait_for("5/20")
        tell("$ nnUNetv2_train")
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
def test_lines_alone_without_a_terminal(folders, capsys, shown):
    finish(folders, run_of("T_5epochs"), CASES[:2])
    with progress(SHORT, folders, shown) as tell:
        tell("$ nnUNetv2_train")
        assert capsys.readouterr() == ("$ nnUNetv2_train\n", "")
    assert capsys.readouterr() == ("", "")


def test_no_bar_where_nothing_is_trained(folders, terminal, capsys):
    with contextlib.redirect_stderr(terminal), progress(SHORT, folders, shown=False) as tell:
        tell("$ nnUNetv2_preprocess")
    assert terminal.getvalue() == ""
    assert capsys.readouterr().out == "$ nnUNetv2_preprocess\n"
