"""Tasks on this machine, one on every slot: a GPU, a few of them, or a share of the CPU."""

import contextlib
import fcntl
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ..utils.errors import UserError
from ..utils.nnunet_cli import failure_message, find_executable
from .folders import NnUNetFolders
from .state import LOCK, RECORD
from .tasks import RunOptions, Task

Slot = tuple[str, ...] | None
"""The GPUs of a slot, as CUDA_VISIBLE_DEVICES has them; None leaves the environment as it is."""


@dataclass(frozen=True)
class Failure:
    """A task that did not come to its end: one line, and where to read more; `begun` unless it never ran a command."""

    task: Task
    reason: str
    begun: bool = True

    def blocks(self, task: Task) -> bool:
        """Whether another cannot be done now; plans that could not be made leave other plans' data whole."""
        return task.depends_on(self.task) and (self.begun or task.consumes(self.task))

    def __str__(self) -> str:
        return f"{self.task}: {self.reason}"


def slots(device: str, gpus: Sequence[str] | None, num_gpus: int, jobs: int) -> list[Slot]:
    """What can be worked on at once.

    Args:
        device: "cuda", "cpu" or "mps".
        gpus: the GPUs to use; None for all that are visible.
        num_gpus: of every training.
        jobs: at once, on a CPU.

    Raises:
        UserError: if there are fewer GPUs than a training needs.
    """
    if device != "cuda":
        return [None] * jobs
    found = list(gpus) if gpus else _visible_gpus()
    if len(found) < num_gpus:
        raise UserError(f"a training needs {num_gpus} GPU(s), {len(found)} are here: use --device cpu, or --num-gpus")
    return [tuple(found[i : i + num_gpus]) for i in range(0, len(found) - num_gpus + 1, num_gpus)]


def _visible_gpus() -> list[str]:
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        named = [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
        return list(takewhile(lambda gpu: gpu != "-1", named))  # as CUDA does
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def run_tasks(
    tasks: Sequence[Task],
    folders: NnUNetFolders,
    options: RunOptions,
    where: Sequence[Slot],
    logs: Path,
    tell: Callable[[str], None],
) -> list[Failure]:
    """Run tasks that do not wait for each other; returns those that failed, once all others are done.

    However this process ends, the commands end with it.

    Args:
        tasks: in their order.
        folders, options: of nnU-Net's folders and commands.
        where: the slots.
        logs: folder for what the commands print.
        tell: takes lines for the user.
    """
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in where:
        free.put(slot)
    stop = threading.Event()

    def work(task: Task) -> Failure | None:
        slot = free.get()
        try:
            return (
                None
                if stop.is_set()
                else run_task(task, folders, options, slot, logs / f"{slug(task)}.txt", tell, stop)
            )
        except BrokenPipeError:  # nobody reads what is told: the end of everything
            raise
        except UserError as error:  # before anything was run
            return Failure(task, str(error), begun=False)
        except OSError as error:  # such as a disk that is full
            return Failure(task, str(error))
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(where)) as pool:
        try:
            futures = [pool.submit(work, task) for task in tasks]
            return [failure for future in as_completed(futures) if (failure := future.result())]
        except BaseException:
            stop.set()  # the threads end their commands
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def run_task(
    task: Task,
    folders: NnUNetFolders,
    options: RunOptions,
    gpus: Slot,
    log: Path,
    tell: Callable[[str], None],
    stop: threading.Event,
) -> Failure | None:
    """Run what is left of a task; None if it is done afterwards.

    Args:
        task: what is done.
        folders, options: of nnU-Net's folders and commands.
        gpus: what its commands may see.
        log: gets what they print.
        tell: takes lines for the user.
        stop: ends it when set.
    """
    if not task.commands(folders, options):
        return None
    with _lock(task.folder(folders), stop if task.kind == "prepare" else None) as lock:
        if lock is None:
            return Failure(task, "another process is at it: left to that")
        last = None
        while left := task.commands(folders, options):  # which are known for sure only now
            command = left[0]
            if command == last:
                return Failure(task, f"{command[0]} ended well, but not all is there: see {log}")
            for line in task.begin(folders):
                tell(line)
            tell(f"$ {shlex.join(command)}")
            if reason := _run(command, task, folders, gpus, log, lock, stop):
                return Failure(task, reason)
            task.end(folders)
            last = command
    return None


@contextlib.contextmanager
def _lock(folder: Path, wait: threading.Event | None = None) -> Iterator[int | None]:
    """A lock for the commands to inherit, so that it lasts as long as any of them; None if it is taken.

    With `wait`, it is waited for until that is set: two plans of a dataset are prepared one after the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        taken = _take(handle)
        while wait and not taken and not wait.is_set():
            taken = _take(handle)
        yield handle if taken else None
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)  # whoever only looks at it holds it for a moment
        except OSError as error:
            raise UserError(
                f"files cannot be locked in nnU-Net's folders ({error.strerror}): mount them with locks"
            ) from None
    return False


def _run(
    command: Sequence[str], task: Task, folders: NnUNetFolders, gpus: Slot, log: Path, lock: int, stop: threading.Event
) -> str | None:
    """Run one command under `supervise.py`; returns why it failed, None if it did not."""
    try:
        path = find_executable(command[0])
    except UserError as error:
        return str(error)
    env = dict(os.environ) | folders.environment(task.repeat)
    if gpus is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    log.parent.mkdir(parents=True, exist_ok=True)
    lifeline, mine = os.pipe()
    supervisor = [sys.executable, str(Path(__file__).with_name("supervisor.py")), str(lifeline), str(lock)]
    try:
        try:
            process = subprocess.Popen(
                [*supervisor, str(log), str(task.folder(folders) / RECORD), path, *command[1:]],
                env=env, pass_fds=[lifeline, lock], start_new_session=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            os.close(lifeline)
        while process.poll() is None and not stop.wait(0.2):
            pass
    finally:
        os.close(mine)  # which ends the command if it still runs
    code = process.wait()
    if stop.is_set():
        return "stopped"
    return failure_message(command[0], code, log) if code else None


def slug(task: Task) -> str:
    """A file name for a task."""
    return "".join(c if c.isalnum() else "_" for c in str(task)).replace("__", "_")
