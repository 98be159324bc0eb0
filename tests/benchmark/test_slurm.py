"""What a job does when its time is up; what Slurm itself does is in tests/slurm."""

import os

import pytest
from submitit.helpers import DelayedSubmission
from support.benchmark import make_folders, run_of

from nnunet_xattnres.benchmark import slurm
from nnunet_xattnres.benchmark.slurm import Report, Work
from nnunet_xattnres.benchmark.tasks import Predict, RunOptions, Train
from nnunet_xattnres.utils.errors import StepFailedError


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Jobs that have had a part of their minutes when their command is at work."""
    folders, clock = make_folders(tmp_path), iter([])
    monkeypatch.setattr(slurm.time, "monotonic", lambda: next(clock))

    def start(task, seconds, during=lambda fold: None, before=lambda fold: None):
        nonlocal clock
        clock = iter([100.0, 100.0 + seconds])
        fold = folders.fold(run_of())
        fold.mkdir(parents=True)
        before(fold)
        monkeypatch.setattr(slurm, "run_task", lambda *_: during(fold))
        work = Work(task, folders, RunOptions("cpu"), tmp_path / "log.txt", 60)
        work()
        return work

    return start


def write(name, when):
    def write(fold):
        (fold / name).touch()
        os.utime(fold / name, (when, when))

    return write


TRAIN = Train(run_of())
WHOLE, PART = 58 * 60, 40 * 60


@pytest.mark.parametrize(
    ("task", "seconds", "before", "during"),
    [
        (TRAIN, PART, None, None),  # preempted
        (Predict((run_of(),)), PART, None, None),
        (TRAIN, WHOLE, None, write("checkpoint_best.pth", 1)),
        (TRAIN, WHOLE, write("checkpoint_best.pth", 1), write("checkpoint_best.pth", 2)),
        (TRAIN, WHOLE, write("checkpoint_best.pth", 1), write("checkpoint_latest.pth", 1)),
        (TRAIN, WHOLE, write("checkpoint_latest.pth", 1), write("checkpoint_final.pth", 1)),
    ],
)
def test_what_got_on_is_requeued(started, task, seconds, before, during):
    work = started(task, seconds, during or (lambda fold: None), before or (lambda fold: None))
    again = work.checkpoint()
    assert isinstance(again, DelayedSubmission)
    (requeued,) = [value for value in vars(again).values() if isinstance(value, Work)]
    assert (requeued.task, requeued.minutes) == (task, 60)
    assert work.stop.wait(10)


@pytest.mark.parametrize(
    ("task", "before", "during"),
    [
        (TRAIN, None, None),
        (Predict((run_of(),)), None, None),
        (TRAIN, write("checkpoint_latest.pth", 1), None),
        (TRAIN, write("checkpoint_latest.pth", 1), write("checkpoint_best.pth", 2)),  # which --c does not take then
        (TRAIN, write("checkpoint_final.pth", 1), None),  # a validation
    ],
)
def test_what_would_only_begin_where_it_began_is_not(started, task, before, during):
    work = started(task, WHOLE, during or (lambda fold: None), before or (lambda fold: None))
    with pytest.raises(StepFailedError, match=r"60 minutes are too short.* --time$"):
        work.checkpoint()
    assert work.stop.wait(10)


@pytest.mark.parametrize(("code", "fails"), [(0, False), (1, False), (2, True)])
def test_a_report_that_there_is_not(monkeypatch, tmp_path, code, fails):
    monkeypatch.setattr("nnunet_xattnres.cli.main.main", lambda arguments: code)
    if fails:
        with pytest.raises(StepFailedError):
            Report(tmp_path)()
    else:
        Report(tmp_path)()
