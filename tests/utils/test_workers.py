"""Every item once, errors to the caller, and no process that outlives its parent."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import jobs

from nnunet_xattnres.utils.errors import StepFailedError
from nnunet_xattnres.utils.workers import default_workers, for_each

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("items", [[], [7], [3, 1, 4, 1, 5, -9]])
def test_every_item_once(capfd, items, workers):
    assert sorted(for_each(jobs.square, items, workers, "squaring")) == sorted((n, n * n) for n in items)
    assert capfd.readouterr() == ("", "")  # a progress bar is for terminals


def test_one_worker_is_this_process():
    assert dict(for_each(jobs.process, "abc", 1, "")) == dict.fromkeys("abc", os.getpid())


def test_two_workers_are_others():
    processes = {pid for _, pid in for_each(jobs.process, "abcdefgh", 2, "")}
    assert os.getpid() not in processes
    assert len(processes) in (1, 2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller(workers):
    with pytest.raises(LookupError, match="three"):
        list(for_each(jobs.fail_at_three, range(10), workers, ""))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_caller_that_has_enough(workers):
    results = for_each(jobs.square, range(20), workers, "")
    number, square = next(results)
    assert square == number * number
    results.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", [jobs.leave, jobs.be_killed])
def test_a_worker_that_dies(end):
    with pytest.raises(StepFailedError, match=r"^a worker process died, .*: try again with --workers 1$") as error:
        list(for_each(end, range(4), 2, ""))
    assert error.value.exit_code == 1
    assert not multiprocessing.active_children()


PARENT = """
from nnunet_xattnres.utils.workers import for_each
from support import jobs
if __name__ == "__main__":
    list(for_each(jobs.sleep, [3600, 3600], 2, ""))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """They hold its output open: that it ends, says that they have."""
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, "-u", str(tmp_path / "parent.py")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as parent:
        try:
            assert [parent.stdout.readline() for _ in range(2)] == [b"asleep\n"] * 2
            parent.kill()
            assert parent.communicate(timeout=60) == (b"", None)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
    assert parent.returncode == -signal.SIGKILL


def test_default():
    assert 1 <= default_workers() <= min(8, os.cpu_count())
