"""A function applied to many items by worker processes, with a progress bar."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from .errors import StepFailedError

# concurrent.futures waits for all its workers at once, which Windows can for this many handles only
_MAX_WORKERS = 61 if sys.platform == "win32" else 2**31

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """The number of CPU cores that this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, cores or 1)


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> Iterator[tuple[Item, Result]]:
    """Apply a function to every item and yield (item, result) pairs in the order in which they are computed.

    >>> sorted(map_unordered(abs, [-3, 2], workers=1, title="computing"))
    [(-3, 3), (2, 2)]

    Args:
        function: a picklable function. An exception that it raises ends the iteration and reaches the caller.
        items: picklable items.
        workers: the number of worker processes; 1 computes in this process.
        title: the title of the progress bar, which is shown on a terminal only.

    Raises:
        StepFailedError: if a worker process dies, for example because the memory is exhausted.
    """
    from tqdm import tqdm

    serial = workers == 1 or len(items) < 2
    pairs = _run_serially(function, items) if serial else _run_in_pool(function, items, workers)
    yield from tqdm(pairs, title, total=len(items), disable=None, leave=False)


def _run_serially(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    for item in items:
        yield item, function(item)


def _run_in_pool(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks that threads of libraries hold
    pool = ProcessPoolExecutor(
        min(workers, len(items), _MAX_WORKERS), mp_context=context, initializer=_exit_with_parent
    )
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        message = "a worker process died, possibly because the memory is exhausted: try again with --workers 1"
        raise StepFailedError(message) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _exit_with_parent() -> None:
    """Initialise a worker: it exits when its parent dies, and ignores Ctrl-C, which the parent handles.

    A parent that is killed by SIGKILL cannot end its workers, so each worker watches its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
