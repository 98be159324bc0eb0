"""Locks of files, which tell other processes that a task is running, and end with the process that holds them.

filelock's locks are used where there is no flock, as on Windows. Where there is, the lock is taken with flock itself,
because a command must inherit its descriptor, which filelock does not give away: a command that outlives the process
that started it still holds the lock.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..utils.errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_ATTEMPTS, _PAUSE_SECONDS = 10, 0.05


@dataclass(frozen=True)
class HeldLock:
    """A lock that this process holds. Commands inherit `descriptor`; it is None on Windows, where they cannot."""

    descriptor: int | None


@contextlib.contextmanager
def lock_file(path: Path, wait: Callable[[], bool] = lambda: False) -> Iterator[HeldLock | None]:
    """Lock a file, which is made if it does not exist; yields None if another process has locked it.

    Args:
        path: the file. Its folder must exist.
        wait: whether to go on waiting, asked again and again while another process has the lock.

    Raises:
        UserError: if the file cannot be opened, or the file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        held = _acquire(path, stack)
        while held is None and wait():
            held = _acquire(path, stack)
        yield held


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file."""
    if not path.exists():
        return False
    try:
        if fcntl is None:
            with contextlib.ExitStack() as stack:
                return _try_filelock(path, stack, _PAUSE_SECONDS) is None
        handle = os.open(path, os.O_RDONLY)  # it may be another user's
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system has no locks
        return False
    finally:
        os.close(handle)
    return False


def _acquire(path: Path, stack: contextlib.ExitStack) -> HeldLock | None:
    """Try to lock a file, which is unlocked when the stack closes; None if another process has locked it."""
    try:
        for _ in range(_ATTEMPTS):
            if held := (_try_filelock if fcntl is None else _try_flock)(path, stack):
                return held
            time.sleep(_PAUSE_SECONDS)  # `is_locked` in another process holds it for a moment
    except OSError as error:
        if error.filename is not None:  # of `open`; the errors of flock have no file
            raise UserError(f"{path} cannot be opened to lock it ({error.strerror}): make it writable") from None
        raise UserError(
            f"the file system of nnU-Net's folders does not support locks ({error.strerror}): mount it with flock"
        ) from None
    return None


def _try_flock(path: Path, stack: contextlib.ExitStack) -> HeldLock | None:
    assert fcntl is not None
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    stack.callback(os.close, handle)
    return HeldLock(handle)


def _try_filelock(path: Path, stack: contextlib.ExitStack, timeout: float = 0) -> HeldLock | None:
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=timeout, poll_interval=_PAUSE_SECONDS / 5)
    try:
        lock.acquire()
    except Timeout:
        return None
    stack.callback(lock.release)
    return HeldLock(None)
