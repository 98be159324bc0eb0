"""Every item is computed once, errors reach the caller, and no worker outlives its parent."""

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
from nnunet_xattnres.utils.workers import default_workers, map_unordered

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("items", [[], [7], [3, 1, 4, 1, 5, -9]])
def test_every_item_is_computed_once(capfd, items, workers):
    assert sorted(map_unordered(jobs.square, items, workers, "squaring")) == sorted((n, n * n) for n in items)
    assert capfd.readouterr() == ("", "")  # the progress bar is only shown on terminals


def test_one_worker_computes_in_this_process():
    assert dict(map_unordered(jobs.process_id, "abc", 1, "")) == dict.fromkeys("abc", os.getpid())


def test_two_workers_are_other_processes():
    processes = {pid for _, pid in map_unordered(jobs.process_id, "abcdefgh", 2, "")}
    assert os.getpid() not in processes
    assert len(processes) in (1, 2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller(workers):
    with pytest.raises(LookupError, match="three"):
        list(map_unordered(jobs.fail_at_three, range(10), workers, ""))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_caller_that_stops_early(workers):
    results = map_unordered(jobs.square, range(20), workers, "")
    number, square = next(results)
    assert square == number * number
    results.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("die", [jobs.exit_at_once, jobs.kill_itself])
def test_a_worker_that_dies(die):
    with pytest.raises(StepFailedError, match="--workers 1") as error:
        list(map_unordered(die, range(4), 2, ""))
    assert error.value.exit_code == 1
    assert not multiprocessing.active_children()


PARENT = """
from nnunet_xattnres.utils.workers import map_unordered
from support import jobs
if __name__ == "__main__":
    list(map_unordered(jobs.sleep, [3600, 3600], 2, ""))
"""


def test_workers_exit_when_their_parent_is_killed(tmp_path):
    """The workers inherit the parent's output, so the end of this output shows that they have exited."""
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


def test_default_workers():
    assert 1 <= default_workers() <= min(8, os.cpu_count())
