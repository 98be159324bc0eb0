"""How far a run is, from what nnU-Net has written."""

import fcntl
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import Literal

from ..utils.errors import UserError
from ..utils.files import read_json
from .folders import NnUNetFolders
from .grid import ExperimentKey, Run
from .log import read_debug, read_logs

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""In the order in which nnU-Net's `--c` takes them."""

LOCK = ".benchmark.lock"
RECORD = "benchmark.jsonl"
"""In a fold: held while it is being trained, and what was run by whom."""

Stage = Literal["to train", "started", "to validate", "done", "different splits"]


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        stage: "started" has a checkpoint to go on from or at least a log; "to validate" is trained; "different splits"
            was validated on other cases than the fold has now, so that it may have been trained on these.
        epochs: finished ones.
        num_epochs: length of the training, None if it is not known.
        seconds_per_epoch: median so far, None without an epoch.
        running: whether a process of `xattnres benchmark run` is at it on this machine.
        problems: files that a kill has left torn, or that are no checkpoint, and why.
    """

    stage: Stage
    epochs: int
    num_epochs: int | None
    seconds_per_epoch: float | None
    running: bool
    problems: tuple[str, ...] = ()


def read_state(run: Run, folders: NnUNetFolders) -> State:
    """How far a run is; nothing is changed."""
    fold = folders.fold(run)
    log, debug = read_logs(fold), read_debug(fold)
    whole = [name for name in CHECKPOINTS if is_checkpoint(fold / name)]
    broken = [f"{name} is torn" for name in CHECKPOINTS if (fold / name).exists() and name not in whole]
    summary = folders.validation(run) / "summary.json"
    validated, wanted = summary_cases(summary), validation_cases(run, folders)
    # nnU-Net keeps an old summary until the next validation
    under_way = any((fold / name).exists() for name in ("checkpoint_final.pth", "checkpoint_latest.pth"))
    begun_anew = under_way and "checkpoint_final.pth" not in whole
    if validated and wanted and validated != wanted:
        stage = "different splits"
    elif validated and not begun_anew:
        stage = "done"
    elif "checkpoint_final.pth" in whole:
        stage = "to validate"
    elif whole or log.epochs or (validated and begun_anew):
        stage = "started"
    else:
        stage = "to train"
    if validated is None and summary.exists():
        broken.append("validation/summary.json cannot be read")
    seconds = log.series("seconds")[1]
    return State(
        stage, max(log.epochs, default=-1) + 1, debug.epochs or epochs_in_name(run.trainer),
        median_high(seconds) if seconds else None, is_locked(fold / LOCK), tuple(broken),
    )  # fmt: skip


def epochs_in_name(trainer: str) -> int | None:
    """The length that nnU-Net's naming tells: 50 of nnUNetTrainer_50epochs."""
    found = re.search(r"_(\d+)epochs?(?:_|$)", trainer)
    return int(found[1]) if found else None


def is_checkpoint(path: Path) -> bool:
    """Whether this is a whole file of torch.save: its directory of contents is written last."""
    return path.is_file() and zipfile.is_zipfile(path)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def summary_cases(path: Path) -> set[str] | None:
    """The cases in nnU-Net's summary.json; None if it is not there or torn."""
    try:
        cases = json.loads(path.read_text())["metric_per_case"]
        return {re.sub(r"\.(nii\.gz|[^.]+)$", "", Path(case["reference_file"]).name) for case in cases}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_splits(experiment: ExperimentKey, folders: NnUNetFolders) -> list[dict[str, list[str]]] | None:
    """The folds of a prepared dataset, None before nnU-Net has made them.

    Raises:
        UserError: if the file is there and is none of nnU-Net's.
    """
    path = folders.preprocessed_dataset(experiment) / "splits_final.json"
    if not path.exists():
        return None
    try:
        splits = json.loads(path.read_text())
        return [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in splits]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as nnU-Net's splits ({error!r}): mend it or move it away") from None


def validation_cases(run: Run, folders: NnUNetFolders) -> set[str] | None:
    """The fold's validation cases, None where nnU-Net has not made its splits yet."""
    splits = read_splits(run.experiment, folders)
    return set(splits[run.fold]["val"]) if splits and run.fold < len(splits) else None


def read_plans(experiment: ExperimentKey, folders: NnUNetFolders) -> dict:
    """The plans of a prepared dataset.

    Raises:
        UserError: if they cannot be read, or lack the configuration.
    """
    path = folders.plans(experiment)
    plans = read_json(path, "nnU-Net's plans")
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict):
        raise UserError(f"{path} has no configurations: make the plans anew with nnUNetv2_plan_experiment")
    if experiment.configuration not in configurations:
        raise UserError(f"{path} has no configuration {experiment.configuration}, but {', '.join(configurations)}")
    return plans
