"""Locks exclude other processes, with flock and, as on Windows, without."""

import errno
import fcntl
import subprocess
import sys
import time

import pytest

from nnunet_xattnres.benchmark import locks
from nnunet_xattnres.benchmark.locks import HeldLock, is_locked, lock_file
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture(params=["flock", "filelock"])
def kind(request, monkeypatch):
    if request.param == "filelock":
        monkeypatch.setattr(locks, "fcntl", None)
    return request.param


def test_one_holder(tmp_path, kind):
    path = tmp_path / "lock"
    assert not is_locked(path) and not path.exists()
    with lock_file(path) as held:
        assert (held.descriptor is None) == (kind == "filelock")
        assert is_locked(path)
        with lock_file(path) as second:
            assert second is None
    assert not is_locked(path)


def test_waiting_for_a_lock(tmp_path, kind):
    path, asked = tmp_path / "lock", []

    def wait():
        asked.append(1)
        if len(asked) == 2:
            holder.communicate("\n")
        return True

    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", program, path], **pipes) as holder:
        holder.stdout.readline()
        with lock_file(path, wait) as held:
            assert isinstance(held, HeldLock) and len(asked) == 2


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Reading the state works, training is an error."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "lock").touch()
    assert not is_locked(tmp_path / "lock")
    with pytest.raises(UserError, match="No locks available"), lock_file(tmp_path / "lock"):
        pass


def test_a_file_that_cannot_be_opened(tmp_path, kind):
    """The file system is not to blame."""
    (tmp_path / "lock").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path / 'lock'} cannot be opened"), lock_file(tmp_path / "lock"):
        pass


def test_is_locked_does_not_lock(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    assert not is_locked(lock)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert is_locked(lock)
        lock.chmod(0o444)  # as for another user
        assert is_locked(lock)


@pytest.mark.parametrize("calls", [3000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_concurrent_calls_of_is_locked(tmp_path, calls):
    """Two calls of `xattnres benchmark status` do this."""
    lock = tmp_path / "lock"
    lock.touch()
    program = "from pathlib import Path; from nnunet_xattnres.benchmark.locks import is_locked; "
    program += f"p = Path({str(lock)!r}); print(sum(is_locked(p) for _ in range({calls})))"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["0\n", "0\n"]


@pytest.mark.parametrize("times", [300, pytest.param(1000, marks=pytest.mark.soak)])
def test_is_locked_never_prevents_locking(tmp_path, times):
    """`xattnres benchmark status` may call it at the moment at which a training starts."""
    path = tmp_path / "lock"
    program = "from pathlib import Path; from nnunet_xattnres.benchmark.locks import is_locked\nprint(flush=True)\n"
    program += f"while True: is_locked(Path({str(path)!r}))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            for _ in range(times):
                time.sleep(0.0005)
                with lock_file(path) as lock:
                    assert lock is not None
        finally:
            process.kill()
