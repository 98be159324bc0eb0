"""Tasks on a Slurm cluster, through submitit: arrays of jobs that wait for each other and go on when requeued."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..utils.errors import StepFailedError, UserError
from ..utils.files import read_json, write_atomic
from .folders import NnUNetFolders
from .local import run_task, slug
from .state import CHECKPOINTS
from .tasks import RunOptions, Task, Train

_NOT_WRITTEN = 2  # exit code of a report that there is not, rather than of one that names what is missing
_REQUEUES = 1000  # a training longer than its time limit comes back as often as it must


@dataclass(frozen=True)
class Slurm:
    """What every job asks for.

    Attributes:
        time: limit in minutes; a training that reaches it is requeued and goes on.
        partition, memory_gb, cpus: None leaves them to the cluster.
        parallel: jobs of an array at once.
        warning: seconds before the limit at which a job is stopped and requeued.
        options: further ones of sbatch, by name.
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


class Work:
    """A task as a job: what is left of it is found out when it starts, so that it may start again and again."""

    def __init__(self, task: Task, folders: NnUNetFolders, options: RunOptions, log: Path, minutes: int):
        self.task, self.folders, self.options, self.log, self.minutes = task, folders, options, log, minutes
        self.stop: threading.Event | None = None

    def __call__(self) -> None:
        self.stop, self.began, self.saved = threading.Event(), time.monotonic(), self._saved()
        failure = run_task(self.task, self.folders, self.options, None, self.log, partial(print, flush=True), self.stop)
        if failure:
            raise StepFailedError(str(failure))

    def checkpoint(self):
        """Before the time is up: end the command and be requeued, unless all of the time was not enough to get on.

        Raises:
            StepFailedError: if the job has run for its full time and would only begin where it began.
        """
        from submitit.helpers import DelayedSubmission

        if self.stop:
            # in a thread, for this is a signal's handler, and the one that it interrupts may hold the event's lock
            threading.Thread(target=self.stop.set).start()
            if time.monotonic() - self.began >= 0.8 * 60 * self.minutes and self._saved() == self.saved:
                raise StepFailedError(
                    f"{self.task}: {self.minutes} minutes are too short, for they end where they began (nnU-Net saves "
                    "a training every 50 epochs, and what is no training begins anew): give the jobs more with --time"
                )
        return DelayedSubmission(Work(self.task, self.folders, self.options, self.log, self.minutes))

    def _saved(self) -> tuple[str, int] | None:
        """The checkpoint that a training would go on from, and when it was written."""
        if isinstance(self.task, Train):
            for name in CHECKPOINTS:
                if (file := self.folders.fold(self.task.run) / name).exists():
                    return name, file.stat().st_mtime_ns
        return None


class Report:
    """The report as a job."""

    def __init__(self, out: Path):
        self.out = out

    def __call__(self) -> None:
        from ..cli.main import main

        if main(["benchmark", "report", "--out", str(self.out)]) == _NOT_WRITTEN:
            raise StepFailedError("there is no report: see above")


def submit(
    phases: Sequence[Sequence[Task]], folders: NnUNetFolders, options: RunOptions, slurm: Slurm, out: Path
) -> list[str]:
    """Submit what is left; returns a line for every array of jobs.

    Tasks that need the same others are one array, which starts when these have ended well; the report comes when all
    have ended, however. A task whose job still waits or runs is not submitted again.

    Args:
        phases: tasks; each needs none but earlier ones.
        folders, options: of nnU-Net's folders and commands.
        slurm: what the jobs ask for.
        out: of logs and the report; on a file system that the nodes share.

    Raises:
        UserError: if there is no Slurm here, or it refuses a job.
    """
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise UserError("there is no sbatch here: run this where jobs are submitted, or without --slurm")
    out = out.absolute()
    active = active_jobs()
    jobs = {name: job for name, job in read_jobs(out).items() if job in active}
    said = [f"{len(jobs)} jobs of before still wait or run"] if jobs else []
    earlier: list[Task] = []
    submitted = False
    for tasks in phases:
        arrays: dict[tuple[str, ...], list[Task]] = {}
        for task in tasks:
            try:
                left = str(task) not in jobs and bool(task.commands(folders, options))
            except UserError as error:
                said.append(f"left out: {error}")
                continue
            if left:
                needed = tuple(jobs[str(other)] for other in earlier if str(other) in jobs and task.depends_on(other))
                arrays.setdefault(needed, []).append(task)
        for needed, members in arrays.items():
            work = [Work(task, folders, options, out / "logs" / f"{slug(task)}.txt", slurm.time) for task in members]
            gpus = options.num_gpus if options.device == "cuda" and members[0].uses_gpu else None
            ids = _submit(work, slurm, out, members[0].kind, gpus, "afterok", needed)
            jobs |= zip(map(str, members), ids, strict=True)
            _keep_jobs(jobs, out)
            submitted = True
            said.append(f"{len(ids)} x {members[0].kind}: job {ids[0]}" + (f" to {ids[-1]}" if len(ids) > 1 else ""))
        earlier += tasks
    if submitted:
        (report,) = _submit([Report(out)], slurm, out, "report", None, "afterany", tuple(jobs.values()))
        said.append(f"report, after all of them: job {report}")
    return said


def _submit(
    work: Sequence[object], slurm: Slurm, out: Path, kind: str, gpus: int | None, after: str, needed: Sequence[str]
) -> list[str]:
    """Job ids of an array of callables."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    further = dict(slurm.options) | {"requeue": True, "kill-on-invalid-dep": "yes"}
    if needed:
        further["dependency"] = f"{after}:{':'.join(needed)}"
    parameters = {
        "job_name": f"xattnres-{kind}", "time": slurm.time, "array_parallelism": slurm.parallel,
        "signal_delay_s": slurm.warning, "setup": list(slurm.setup) or None, "partition": slurm.partition,
        "cpus_per_task": slurm.cpus, "mem": f"{slurm.memory_gb}GB" if slurm.memory_gb else None,
        "gpus_per_node": gpus, "additional_parameters": further,
    }  # fmt: skip
    executor, said = SlurmExecutor(out / "slurm", max_num_timeout=_REQUEUES), io.StringIO()
    try:
        executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
        # submitit passes on what sbatch says, which is in its error as well
        with contextlib.redirect_stderr(said), executor.batch():
            jobs = [executor.submit(one) for one in work]
    except (FailedJobError, subprocess.CalledProcessError, OSError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise UserError(f"Slurm refuses the jobs ({reason}): see --partition, --time and --slurm-option") from None
    print(said.getvalue(), end="", file=sys.stderr)
    return [job.job_id for job in jobs]


def read_jobs(out: Path) -> dict[str, str]:
    """Job ids of tasks by their names, as they were submitted last."""
    path = out / "slurm" / "jobs.json"
    return read_json(path, "the jobs of a benchmark") if path.exists() else {}


def _keep_jobs(jobs: Mapping[str, str], out: Path) -> None:
    write_atomic(out / "slurm" / "jobs.json", json.dumps(jobs, indent=1) + "\n")


def active_jobs() -> dict[str, str]:
    """State by id of the jobs that Slurm has not finished; empty where there is no Slurm.

    Raises:
        UserError: if Slurm does not answer.
    """
    if not shutil.which("squeue"):
        return {}
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--array", "--all", "--format=%i %T"], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        answer = None
    if answer is None or answer.returncode:
        raise UserError(f"Slurm does not answer ({answer.stderr.strip() if answer else 'squeue hangs'}): try later")
    return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines())
