"""One function over many items: worker processes, a progress bar, and nobody left behind."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from .errors import StepFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """One process a core that this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, cores or 1)


def for_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, title: str
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) as they are done, in no order, with a progress bar on a terminal.

    Args:
        function: picklable; what it raises ends everything.
        items: picklable.
        workers: processes; 1 works in this one.
        title: of the progress bar.

    Raises:
        StepFailedError: if a worker process dies, as it does when memory runs out.
    """
    from tqdm import tqdm

    pairs = _alone(function, items) if workers == 1 or len(items) < 2 else _together(function, items, workers)
    yield from tqdm(pairs, title, total=len(items), disable=None, leave=False)


def _alone(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    for item in items:
        yield item, function(item)


def _together(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks that libraries' threads hold
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        message = "a worker process died, perhaps for want of memory: try again with --workers 1"
        raise StepFailedError(message) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, so they watch it; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
