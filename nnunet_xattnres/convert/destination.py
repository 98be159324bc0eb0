"""Where a dataset goes, and how it gets there: in full under its name, or not at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import StepFailedError, UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_HIGHEST_ID = 999


@dataclass(frozen=True)
class Target:
    """Where a dataset goes.

    Attributes:
        raw: nnU-Net's folder of raw datasets.
        preprocessed: its folder of preprocessed ones, None where it is not set.
        number, name: of the dataset.
    """

    raw: Path
    preprocessed: Path | None
    number: int
    name: str

    @property
    def folder(self) -> Path:
        return self.raw / f"Dataset{self.number:03d}_{self.name}"

    @property
    def hidden(self) -> Path:
        """Where the conversion happens."""
        return self.raw / f".{self.folder.name}.converting"

    @property
    def replaced(self) -> Path:
        """Where a dataset waits while another takes its name."""
        return self.raw / f".{self.folder.name}.replaced"

    @property
    def splits(self) -> Path | None:
        """The splits that nnU-Net trains with, once it has planned."""
        return self.preprocessed and self.preprocessed / self.folder.name / "splits_final.json"


def find_target(number: int, name: str, environment=os.environ) -> Target:
    """The place of a dataset in nnU-Net's folders.

    Raises:
        UserError: if nnUNet_raw is not set or no folder, the name or number is none, or another dataset has the number.
    """
    raw = Path(environment.get("nnUNet_raw") or "")
    if not environment.get("nnUNet_raw") or not raw.is_dir():
        came = f"it is {raw}" if environment.get("nnUNet_raw") else "it is not set"
        raise UserError(f"nnUNet_raw must name nnU-Net's folder for raw datasets, {came}: export nnUNet_raw=/FOLDER")
    if not 1 <= number <= _HIGHEST_ID:
        raise UserError(f"--dataset-id must be 1 to {_HIGHEST_ID}, got {number}")
    if not _NAME.fullmatch(name):
        raise UserError(f"--name must be letters, digits, - and _, got {name!r}")
    preprocessed = Path(p) if (p := environment.get("nnUNet_preprocessed")) else None
    target = Target(raw.resolve(), preprocessed, number, name)
    results = Path(r) if (r := environment.get("nnUNet_results")) else None
    for folder in filter(None, (target.raw, preprocessed, results)):
        for other in sorted(folder.glob(f"Dataset{number:03d}_*")):
            if other.name != target.folder.name:
                raise UserError(f"{other} has the number {number} already: choose another --dataset-id or its --name")
    return target


def recover(target: Target) -> None:
    """Finish or undo what a kill left between two renamings."""
    if os.path.lexists(target.replaced):
        if os.path.lexists(target.folder):
            _remove(target.replaced)
        else:
            target.replaced.rename(target.folder)


@contextlib.contextmanager
def hidden_folder(target: Target) -> Iterator[Path]:
    """The folder of the conversion, for one process at a time; only a kill leaves it behind."""
    from filelock import FileLock, Timeout

    hidden = target.hidden
    try:
        hidden.mkdir(exist_ok=True)
        lock = FileLock(hidden / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another conversion is writing {target.folder}: wait for it, or end it") from None
    except OSError as error:
        raise UserError(f"cannot write to {target.raw} ({error.strerror}): choose another nnUNet_raw") from None
    try:
        yield hidden
    except (KeyboardInterrupt, SystemExit):
        raise  # to be continued
    except OSError as error:
        _discard(hidden)
        raise StepFailedError(
            f"cannot write {target.folder} ({error}): make room, or choose another nnUNet_raw"
        ) from None
    except BaseException:
        _discard(hidden)
        raise
    else:
        _discard(hidden)
    finally:
        lock.release()


def _discard(hidden: Path) -> None:
    """Remove the folder of a conversion; a kill on the way leaves nothing that could be continued."""
    (hidden / "settings.json").unlink(missing_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)


def _remove(dataset: Path) -> None:
    """Remove a dataset, or the link to one."""
    if dataset.is_symlink():
        dataset.unlink()
    else:
        shutil.rmtree(dataset)


def publish(made: Path, target: Target, overwrite: bool) -> None:
    """Give a finished folder the dataset's name; splits of an earlier dataset, and that dataset, give way to it."""
    if overwrite and target.splits and target.splits.exists():
        aside = next(p for n in range(1, 1000) if not (p := target.splits.with_suffix(f".replaced{n}.json")).exists())
        target.splits.rename(aside)
    if os.path.lexists(target.folder):
        target.folder.rename(target.replaced)
    made.rename(target.folder)
    if os.path.lexists(target.replaced):
        _remove(target.replaced)
