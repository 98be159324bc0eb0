"""The state of a run, from the files that nnU-Net has written."""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from statistics import median_high
from typing import Literal

from ..utils.errors import UserError
from ..utils.files import read_json
from .folders import NnUNetFolders
from .grid import ExperimentKey, Run
from .locks import is_locked
from .log import read_debug, read_logs

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""The checkpoints of a fold, in the order in which nnU-Net's `--c` looks for them."""

LOCK = ".benchmark.lock"
"""The file in a task's folder that is locked while the task runs."""

RECORD = "benchmark.jsonl"
"""The file in a task's folder with one line for every command that was run."""

Stage = Literal["to train", "started", "to validate", "done", "different splits"]


@dataclass(frozen=True)
class State:
    """The state of a run.

    Attributes:
        stage: "started" if there is a checkpoint or a log with an epoch; "to validate" if the training is finished;
            "different splits" if the run was validated on other cases than the fold has now. It may have been trained
            on the present ones.
        epochs: number of finished epochs.
        num_epochs: length of the training, None if it is not known.
        seconds_per_epoch: median, None before the first epoch.
        running: whether a command of `xattnres benchmark run` is running it on this machine.
        problems: incomplete or unreadable files, as after a kill, and what is wrong with each.
    """

    stage: Stage
    epochs: int
    num_epochs: int | None
    seconds_per_epoch: float | None
    running: bool
    problems: tuple[str, ...] = ()


def read_state(run: Run, folders: NnUNetFolders) -> State:
    """The state of a run; reads only."""
    fold = folders.fold(run)
    log, debug = read_logs(fold), read_debug(fold)
    complete = [name for name in CHECKPOINTS if is_checkpoint(fold / name)]
    problems = [f"{name} is incomplete" for name in CHECKPOINTS if (fold / name).exists() and name not in complete]
    summary = folders.validation(run) / "summary.json"
    validated, expected = summary_cases(summary), validation_cases(run, folders)
    # nnU-Net keeps the summary of an earlier training until the next validation
    training = any((fold / name).exists() for name in ("checkpoint_final.pth", "checkpoint_latest.pth"))
    restarted = training and "checkpoint_final.pth" not in complete
    stage: Stage
    if validated and expected and validated != expected:
        stage = "different splits"
    elif validated and not restarted:
        stage = "done"
    elif "checkpoint_final.pth" in complete:
        stage = "to validate"
    elif complete or log.epochs or (validated and restarted):
        stage = "started"
    else:
        stage = "to train"
    if validated is None and summary.exists():
        problems.append("validation/summary.json cannot be read")
    seconds = log.series("seconds")[1]
    return State(
        stage, max(log.epochs, default=-1) + 1, debug.epochs or epochs_in_name(run.trainer),
        median_high(seconds) if seconds else None, is_locked(fold / LOCK), tuple(problems),
    )  # fmt: skip


def epochs_in_name(trainer: str) -> int | None:
    """The number of epochs in the name of a trainer.

    >>> epochs_in_name("nnUNetTrainer_50epochs"), epochs_in_name("nnUNetTrainer")
    (50, None)
    """
    match = re.search(r"_(\d+)epochs?(?:_|$)", trainer)
    return int(match[1]) if match else None


def is_checkpoint(path: Path) -> bool:
    """Whether this is a complete file of torch.save, a ZIP archive whose directory is written last."""
    return path.is_file() and zipfile.is_zipfile(path)


def summary_cases(path: Path) -> set[str] | None:
    """The cases in nnU-Net's summary.json; None if it does not exist or is incomplete."""
    try:
        cases = json.loads(path.read_bytes())["metric_per_case"]
        # the paths may be those of another operating system; PureWindowsPath splits at both kinds of slashes
        names = [PureWindowsPath(case["reference_file"]).name for case in cases]
        return {re.sub(r"\.(nii\.gz|[^.]+)$", "", name) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_splits(experiment: ExperimentKey, folders: NnUNetFolders) -> list[dict[str, list[str]]] | None:
    """The folds of a preprocessed dataset, None before nnU-Net has made them.

    Raises:
        UserError: if the file is not in nnU-Net's format.
    """
    path = folders.splits(experiment.dataset)
    if not path.exists():
        return None
    try:
        splits = json.loads(path.read_bytes())
        return [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in splits]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as nnU-Net's splits ({error!r}): fix it or move it away") from None


def validation_cases(run: Run, folders: NnUNetFolders) -> set[str] | None:
    """The validation cases of the fold, None before nnU-Net has made its splits."""
    splits = read_splits(run.experiment, folders)
    return set(splits[run.fold]["val"]) if splits and run.fold < len(splits) else None


def read_experiment_plans(experiment: ExperimentKey, folders: NnUNetFolders) -> dict:
    """The plans of a preprocessed dataset.

    Raises:
        UserError: if they cannot be read or do not have the configuration.
    """
    path = folders.plans(experiment)
    plans = read_json(path, "nnU-Net's plans")
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        raise UserError(f"{path} has no configurations: create the plans again with nnUNetv2_plan_experiment")
    if experiment.configuration not in configurations:
        raise UserError(f"{path} has no configuration {experiment.configuration}; it has {', '.join(configurations)}")
    return plans
