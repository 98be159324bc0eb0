"""Tasks as jobs of a Slurm cluster, through submitit: arrays that depend on each other and continue when requeued."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..utils.errors import StepFailedError, UserError
from ..utils.files import read_json, write_atomic
from .folders import NnUNetFolders
from .local import run_task, slug
from .state import CHECKPOINTS
from .tasks import RunOptions, Task, Train

_MAX_REQUEUES = 1000  # a training that is longer than the time limit is requeued as often as needed


@dataclass(frozen=True)
class SlurmOptions:
    """The options of every job.

    Attributes:
        time: time limit in minutes; a training that reaches it is requeued and continues.
        partition: the partition, None for the cluster's default.
        memory_gb: memory in GB, None for the cluster's default.
        cpus: number of CPU cores, None for the cluster's default.
        parallel: jobs of an array at the same time.
        warning: seconds before the time limit at which a job is stopped and requeued.
        options: further options of sbatch, by name.
        setup: shell lines before the job, such as `module load cuda`.
    """

    time: int = 24 * 60
    partition: str | None = None
    memory_gb: int | None = None
    cpus: int | None = None
    parallel: int = 64
    warning: int = 120
    options: dict[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()


class TaskJob:
    """A task as a job; the remaining commands are determined when it starts, so that it can be requeued."""

    def __init__(self, task: Task, folders: NnUNetFolders, options: RunOptions, log: Path, minutes: int):
        self.task, self.folders, self.options, self.log, self.minutes = task, folders, options, log, minutes
        self.stop: threading.Event | None = None

    def __call__(self) -> None:
        self.stop, self.started, self.saved = threading.Event(), time.monotonic(), self._checkpoint()
        echo = partial(print, flush=True)
        if failure := run_task(self.task, self.folders, self.options, None, self.log, echo, self.stop):
            raise StepFailedError(str(failure))

    def checkpoint(self):
        """Stop the command and requeue the job; submitit calls this before the time limit and on preemption.

        Raises:
            StepFailedError: if the job ran for its full time without a new checkpoint, so that requeuing is useless.
        """
        from submitit.helpers import DelayedSubmission

        if self.stop:
            # this is a signal handler: the code that it interrupts may hold the event's lock, hence the thread
            threading.Thread(target=self.stop.set).start()
            if time.monotonic() - self.started >= 0.8 * 60 * self.minutes and self._checkpoint() == self.saved:
                raise StepFailedError(
                    f"{self.task}: the time limit of {self.minutes} minutes is too short, no checkpoint was saved "
                    "(nnU-Net saves every 50 epochs; other tasks start from scratch): give jobs more time with --time"
                )
        return DelayedSubmission(TaskJob(self.task, self.folders, self.options, self.log, self.minutes))

    def _checkpoint(self) -> tuple[str, int] | None:
        """The checkpoint from which a training would continue, and its time."""
        if isinstance(self.task, Train):
            for name in CHECKPOINTS:
                if (file := self.folders.fold(self.task.run) / name).exists():
                    return name, file.stat().st_mtime_ns
        return None


def submit(
    phases: Sequence[Sequence[Task]],
    folders: NnUNetFolders,
    options: RunOptions,
    slurm: SlurmOptions,
    out: Path,
    final_job: Callable[[], None],
) -> list[str]:
    """Submit the tasks that are not done; returns one message for every array of jobs.

    Tasks with the same dependencies are one array, which starts when these have succeeded. A task whose job is still
    pending or running is not submitted again.

    Args:
        phases: tasks; each depends on tasks of earlier phases only.
        folders: nnU-Net's folders.
        options: options of nnU-Net's commands.
        slurm: options of the jobs.
        out: folder for logs, on a file system that all nodes share.
        final_job: job that starts when all others have ended, whether they succeeded or not.

    Raises:
        UserError: if there is no Slurm here, or it rejects a job.
    """
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise UserError("sbatch was not found: run this command on a node that can submit jobs, or without --slurm")
    active = active_jobs()
    jobs = {name: job for name, job in read_jobs(out).items() if job in active}
    messages = [f"{len(jobs)} previously submitted jobs are still pending or running"] if jobs else []
    earlier: list[Task] = []
    submitted = False
    for tasks in phases:
        arrays: dict[tuple[str, ...], list[Task]] = {}
        for task in tasks:
            try:
                todo = str(task) not in jobs and bool(task.commands(folders, options))
            except UserError as error:
                messages.append(f"not submitted: {error}")
                continue
            if todo:
                dependencies = tuple(
                    jobs[str(other)] for other in earlier if str(other) in jobs and task.depends_on(other)
                )
                arrays.setdefault(dependencies, []).append(task)
        for dependencies, members in arrays.items():
            work = [TaskJob(task, folders, options, out / "logs" / f"{slug(task)}.txt", slurm.time) for task in members]
            gpus = options.num_gpus if options.device == "cuda" and members[0].uses_gpu else None
            ids = _submit(work, slurm, out, members[0].kind, gpus, "afterok", dependencies)
            jobs |= zip(map(str, members), ids, strict=True)
            write_atomic(_jobs_file(out), json.dumps(jobs, indent=1) + "\n")
            submitted = True
            messages.append(
                f"{len(ids)} x {members[0].kind}: job {ids[0]}" + (f" to {ids[-1]}" if len(ids) > 1 else "")
            )
        earlier += tasks
    if submitted:
        (job,) = _submit([final_job], slurm, out, "report", None, "afterany", tuple(jobs.values()))
        messages.append(f"report, after all others: job {job}")
    return messages


def _submit(
    work: Sequence[Callable[[], None]],
    slurm: SlurmOptions,
    out: Path,
    kind: str,
    gpus: int | None,
    condition: str,
    dependencies: Sequence[str],
) -> list[str]:
    """Submit an array of callables that starts after the jobs `dependencies`; returns the job ids."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    additional = dict(slurm.options) | {"requeue": True, "kill-on-invalid-dep": "yes"}
    if dependencies:
        additional["dependency"] = f"{condition}:{':'.join(dependencies)}"
    parameters = {
        "job_name": f"xattnres-{kind}", "time": slurm.time, "array_parallelism": slurm.parallel,
        "signal_delay_s": slurm.warning, "setup": list(slurm.setup) or None, "partition": slurm.partition,
        "cpus_per_task": slurm.cpus, "mem": f"{slurm.memory_gb}GB" if slurm.memory_gb else None,
        "gpus_per_node": gpus, "additional_parameters": additional,
    }  # fmt: skip
    executor, output = SlurmExecutor(out / "slurm", max_num_timeout=_MAX_REQUEUES), io.StringIO()
    try:
        executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        # submitit prints the output of sbatch, which its exception includes as well
        with contextlib.redirect_stderr(output), executor.batch():
            jobs = [executor.submit(one) for one in work]
    except (FailedJobError, subprocess.CalledProcessError, OSError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise UserError(f"Slurm rejects the jobs ({reason}): check --partition, --time and --slurm-option") from None
    print(output.getvalue(), end="", file=sys.stderr)
    return [job.job_id for job in jobs]


def _jobs_file(out: Path) -> Path:
    return out / "slurm" / "jobs.json"


def read_jobs(out: Path) -> dict[str, str]:
    """Ids of the last submitted jobs, by the text of their task."""
    return read_json(_jobs_file(out), "the jobs of a benchmark") if _jobs_file(out).exists() else {}


def active_jobs() -> Mapping[str, str]:
    """State of every pending or running job, by id; empty where there is no Slurm.

    Raises:
        UserError: if Slurm does not answer.
    """
    if not shutil.which("squeue"):
        return {}
    command = ["squeue", "--noheader", "--array", "--all", "--format=%i %T"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except subprocess.TimeoutExpired:
        raise UserError("Slurm does not answer (squeue timed out): try again later") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"Slurm does not answer ({error.stderr.strip()}): try again later") from None
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
