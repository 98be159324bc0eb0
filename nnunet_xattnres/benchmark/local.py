"""Tasks on this machine, one at a time in every slot: one or several GPUs, or a share of the CPU."""

import contextlib
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from ..utils.errors import UserError
from ..utils.nnunet_cli import failure_message, find_executable
from .folders import NnUNetFolders
from .locks import HeldLock, lock_file
from .state import LOCK, RECORD
from .tasks import RunOptions, Task

Slot = tuple[str, ...] | None
"""The GPUs of a slot, for CUDA_VISIBLE_DEVICES; None leaves the environment unchanged."""


@dataclass(frozen=True)
class Failure:
    """A task that failed: the reason in one line, and whether any of its commands was started."""

    task: Task
    reason: str
    started: bool = True

    def blocks(self, task: Task) -> bool:
        """Whether another task cannot run; a preparation that never started leaves the data of other plans intact."""
        return task.depends_on(self.task) and (self.started or task.consumes(self.task))

    def __str__(self) -> str:
        return f"{self.task}: {self.reason}"


def make_slots(device: str, gpus: Sequence[str] | None, num_gpus: int, jobs: int) -> list[Slot]:
    """The slots of this machine.

    Args:
        device: "cuda", "cpu" or "mps".
        gpus: the GPUs to use; None for all visible ones.
        num_gpus: GPUs per training.
        jobs: parallel trainings where the device is not "cuda".

    Raises:
        UserError: if there are fewer GPUs than a training needs.
    """
    if device != "cuda":
        return [None] * jobs
    available = list(gpus) if gpus else _visible_gpus()
    if len(available) < num_gpus:
        message = f"a training needs {num_gpus} GPU(s), but {len(available)} are available"
        raise UserError(f"{message}: change --num-gpus, or use --device cpu")
    return [tuple(available[i : i + num_gpus]) for i in range(0, len(available) - num_gpus + 1, num_gpus)]


def _visible_gpus() -> list[str]:
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        names = [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
        return list(takewhile(lambda gpu: gpu != "-1", names))  # as CUDA does
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def run_tasks(
    tasks: Sequence[Task],
    folders: NnUNetFolders,
    options: RunOptions,
    slots: Sequence[Slot],
    logs: Path,
    echo: Callable[[str], None],
) -> list[Failure]:
    """Run tasks that do not depend on each other; returns the failures when all have ended.

    However this process ends, the commands are killed with it.

    Args:
        tasks: in the order in which they are started.
        folders: nnU-Net's folders.
        options: options of nnU-Net's commands.
        slots: one task at a time runs in each.
        logs: folder for the output of the commands.
        echo: prints a line for the user.
    """
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    stop = threading.Event()

    def work(task: Task) -> Failure | None:
        slot = free.get()
        try:
            if stop.is_set():
                return None
            return run_task(task, folders, options, slot, logs / f"{slug(task)}.txt", echo, stop)
        except BrokenPipeError:  # the terminal is gone: stop everything
            raise
        except UserError as error:  # before any command was started
            return Failure(task, str(error), started=False)
        except OSError as error:  # such as a full disk
            return Failure(task, str(error))
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        try:
            futures = [pool.submit(work, task) for task in tasks]
            return [failure for future in as_completed(futures) if (failure := future.result())]
        except BaseException:
            stop.set()  # the threads kill their commands
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def run_task(
    task: Task,
    folders: NnUNetFolders,
    options: RunOptions,
    gpus: Slot,
    log: Path,
    echo: Callable[[str], None],
    stop: threading.Event,
) -> Failure | None:
    """Run the remaining commands of a task; returns the failure, or None if the task is done.

    Args:
        task: the task.
        folders: nnU-Net's folders.
        options: options of nnU-Net's commands.
        gpus: visible GPUs of its commands.
        log: file for their output.
        echo: prints a line for the user.
        stop: kills the running command when it is set.
    """
    if not task.commands(folders, options):
        return None
    with _lock(task.folder(folders), stop if task.kind == "prepare" else None) as lock:
        if lock is None:
            return Failure(task, "another process is already running this task; skipping it")
        last = None
        while remaining := task.commands(folders, options):  # again, because another process may have run some
            command = remaining[0]
            if command == last:
                return Failure(task, f"{command[0]} succeeded, but did not write all of its results: see {log}")
            for line in task.begin(folders):
                echo(line)
            echo(f"$ {shlex.join(command)}")
            if reason := _run(command, task, folders, gpus, log, lock, stop):
                return Failure(task, reason)
            task.end(folders)
            last = command
    return None


@contextlib.contextmanager
def _lock(folder: Path, wait: threading.Event | None = None) -> Iterator[HeldLock | None]:
    """Lock a folder; yields None if another process has locked it.

    Commands inherit the lock, so that the folder stays locked as long as any of them runs. With `wait`, it waits
    for the lock until that event is set: two plans of a dataset are prepared one after the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_file(folder / LOCK, lambda: wait is not None and not wait.is_set()) as held:
        yield held


def _run(
    command: Sequence[str],
    task: Task,
    folders: NnUNetFolders,
    gpus: Slot,
    log: Path,
    lock: HeldLock,
    stop: threading.Event,
) -> str | None:
    """Run one command under `supervisor.py`; returns the reason if it failed."""
    try:
        path = find_executable(command[0])
    except UserError as error:
        return str(error)
    env = dict(os.environ) | folders.environment(task.repeat)
    if gpus is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = [] if lock.descriptor is None else [lock.descriptor]
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py")), *map(str, inherited or "-")]
    process = subprocess.Popen(
        [*program, str(log), str(task.folder(folders) / RECORD), path, *command[1:]],
        env=env, pass_fds=inherited, start_new_session=True, stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        while process.poll() is None and not stop.wait(0.2):
            pass
    finally:
        process.stdin.close()  # the supervisor kills the command if it still runs
    code = process.wait()
    if stop.is_set():
        return "stopped"
    return failure_message(command[0], code, log) if code else None


def slug(task: Task) -> str:
    """The name of a task's log file."""
    return "".join(c if c.isalnum() else "_" for c in str(task)).replace("__", "_")
