"""A job is requeued at its time limit if it has made progress; tests/slurm has the tests with a real Slurm."""

import os

import pytest
from submitit.helpers import DelayedSubmission
from support.benchmark import make_folders, run_of

from nnunet_xattnres.benchmark import slurm
from nnunet_xattnres.benchmark.slurm import TaskJob
from nnunet_xattnres.benchmark.tasks import Predict, RunOptions, Train
from nnunet_xattnres.utils.errors import StepFailedError


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Start a job of 60 minutes whose command has run for some seconds when the signal comes."""
    folders, clock = make_folders(tmp_path), iter([])
    monkeypatch.setattr(slurm.time, "monotonic", lambda: next(clock))

    def start(task, seconds, during=lambda fold: None, before=lambda fold: None):
        nonlocal clock
        clock = iter([100.0, 100.0 + seconds])
        fold = folders.fold(run_of())
        fold.mkdir(parents=True)
        before(fold)
        monkeypatch.setattr(slurm, "run_task", lambda *_: during(fold))
        work = TaskJob(task, folders, RunOptions("cpu"), tmp_path / "log.txt", 60)
        work()
        return work

    return start


def write(name, when):
    def write(fold):
        (fold / name).touch()
        os.utime(fold / name, (when, when))

    return write


TRAIN = Train(run_of())
FULL, PART = 58 * 60, 40 * 60


@pytest.mark.parametrize(
    ("task", "seconds", "before", "during"),
    [
        (TRAIN, PART, None, None),  # preempted
        (Predict((run_of(),)), PART, None, None),
        (TRAIN, FULL, None, write("checkpoint_best.pth", 1)),
        (TRAIN, FULL, write("checkpoint_best.pth", 1), write("checkpoint_best.pth", 2)),
        (TRAIN, FULL, write("checkpoint_best.pth", 1), write("checkpoint_latest.pth", 1)),
        (TRAIN, FULL, write("checkpoint_latest.pth", 1), write("checkpoint_final.pth", 1)),
    ],
)
def test_a_job_with_progress_is_requeued(started, task, seconds, before, during):
    work = started(task, seconds, during or (lambda fold: None), before or (lambda fold: None))
    submission = work.checkpoint()
    assert isinstance(submission, DelayedSubmission)
    (requeued,) = [value for value in vars(submission).values() if isinstance(value, TaskJob)]
    assert (requeued.task, requeued.minutes) == (task, 60)
    assert work.stop.wait(10)


@pytest.mark.parametrize(
    ("task", "before", "during"),
    [
        (TRAIN, None, None),
        (Predict((run_of(),)), None, None),
        (TRAIN, write("checkpoint_latest.pth", 1), None),
        (TRAIN, write("checkpoint_latest.pth", 1), write("checkpoint_best.pth", 2)),  # --c takes the latest one
        (TRAIN, write("checkpoint_final.pth", 1), None),  # a validation
    ],
)
def test_a_job_without_progress_is_not_requeued(started, task, before, during):
    work = started(task, FULL, during or (lambda fold: None), before or (lambda fold: None))
    with pytest.raises(StepFailedError, match=r"60 minutes.* --time$"):
        work.checkpoint()
    assert work.stop.wait(10)
