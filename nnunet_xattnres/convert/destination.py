"""The folders of a dataset, and the renaming that publishes it when it is complete."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import StepFailedError, UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_ID = 999


@dataclass(frozen=True)
class Target:
    """The names of a dataset in nnU-Net's folders.

    Attributes:
        raw: nnU-Net's folder of raw datasets.
        preprocessed: nnU-Net's folder of preprocessed datasets, None if it is not set.
        number: the dataset's number.
        name: the dataset's name without its number.

    >>> Target(Path("nnUNet_raw"), None, 7, "Nuclei").folder.as_posix()
    'nnUNet_raw/Dataset007_Nuclei'
    """

    raw: Path
    preprocessed: Path | None
    number: int
    name: str

    @property
    def folder(self) -> Path:
        """The folder of the finished dataset."""
        return self.raw / f"Dataset{self.number:03d}_{self.name}"

    @property
    def working_folder(self) -> Path:
        """The hidden folder in which the dataset is made."""
        return self.raw / f".{self.folder.name}.converting"

    @property
    def backup_folder(self) -> Path:
        """The hidden folder that holds an earlier dataset while the new one takes its name."""
        return self.raw / f".{self.folder.name}.replaced"

    @property
    def splits(self) -> Path | None:
        """The splits file that nnU-Net trains with; nnU-Net writes it when it plans."""
        return self.preprocessed and self.preprocessed / self.folder.name / "splits_final.json"


def find_target(number: int, name: str, environment: Mapping[str, str] = os.environ) -> Target:
    """Find the names of a dataset in nnU-Net's folders.

    Raises:
        UserError: if nnUNet_raw is not a folder, number or name are invalid, or another dataset has the number.
    """
    raw = Path(environment.get("nnUNet_raw") or "")
    if not environment.get("nnUNet_raw"):
        raise UserError("nnUNet_raw is not set, nnU-Net's folder for raw datasets: export nnUNet_raw=/FOLDER")
    if not raw.is_dir():
        actual, hint = (
            ("is not a folder", "remove that file") if raw.exists() else ("does not exist", "make that folder")
        )
        raise UserError(f"nnUNet_raw={raw} {actual}: {hint}, or export nnUNet_raw=/FOLDER")
    if not 1 <= number <= _MAX_ID:
        raise UserError(f"--dataset-id must be 1 to {_MAX_ID}, got {number}")
    if not _NAME.fullmatch(name):
        raise UserError(f"--name must be letters, digits, - and _, got {name!r}")
    if re.match(r"Dataset\d", name):
        raise UserError(f"--name {name} names another number than --dataset-id {number}: leave its number out")
    preprocessed = Path(p) if (p := environment.get("nnUNet_preprocessed")) else None
    target = Target(raw.resolve(), preprocessed, number, name)
    results = Path(r) if (r := environment.get("nnUNet_results")) else None
    for folder in filter(None, (target.raw, preprocessed, results)):
        # nnU-Net finds a dataset by the beginning of its name: Dataset1000_A is found for the number 100 as well
        for other in sorted(folder.glob(f"Dataset{number:03d}*")):
            if other.is_dir() and other.name != target.folder.name:
                hint = "choose another --dataset-id"
                hint += ", or pass its --name" if other.name.startswith(f"Dataset{number:03d}_") else ""
                raise UserError(f"nnU-Net would also find {other} by the number {number}: {hint}")
    return target


def recover(target: Target) -> None:
    """Finish or undo a replacement that was killed between its two renamings."""
    if os.path.lexists(target.backup_folder):
        if os.path.lexists(target.folder):
            _remove_dataset(target.backup_folder)
        else:
            target.backup_folder.rename(target.folder)


@contextlib.contextmanager
def open_working_folder(target: Target) -> Iterator[Path]:
    """The working folder, for one process at a time; it is removed unless the process is interrupted or killed."""
    from filelock import FileLock, Timeout

    folder = target.working_folder
    try:
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another conversion is writing {target.folder}: wait until it ends, or stop it") from None
    except OSError as error:
        raise UserError(f"cannot write to {target.raw} ({error.strerror}): choose another nnUNet_raw") from None
    interrupted = False
    try:
        yield folder
    except (KeyboardInterrupt, SystemExit):
        interrupted = True  # the next run continues
        raise
    except OSError as error:
        _remove_working_folder(folder)
        text = f"cannot write {target.folder} ({error}): free some space, or choose another nnUNet_raw"
        raise StepFailedError(text) from None
    except BaseException:
        _remove_working_folder(folder)
        raise
    else:
        _remove_working_folder(folder)
    finally:
        left = not interrupted and folder.exists()
        lock.release()
        if left:  # Windows does not remove a lock while it is held
            with contextlib.suppress(OSError):
                (folder / "lock").unlink(missing_ok=True)
                folder.rmdir()


def _remove_working_folder(folder: Path) -> None:
    """Remove a working folder; a kill halfway leaves nothing that a later run would continue from."""
    (folder / "settings.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_dataset(dataset: Path) -> None:
    """Remove a dataset, or the symbolic link to one."""
    if dataset.is_symlink():
        dataset.unlink()
    else:
        shutil.rmtree(dataset)


def publish(finished: Path, target: Target, overwrite: bool) -> None:
    """Rename a finished folder to the dataset's name.

    Args:
        finished: the finished dataset in the working folder.
        target: the names of the dataset.
        overwrite: rename nnU-Net's splits file of an earlier dataset to splits_final.replaced<N>.json.
    """
    if overwrite and target.splits and target.splits.exists():
        backups = (target.splits.with_suffix(f".replaced{n}.json") for n in range(1, 1000))
        target.splits.rename(next(path for path in backups if not path.exists()))
    if os.path.lexists(target.folder):
        target.folder.rename(target.backup_folder)
    finished.rename(target.folder)
    if os.path.lexists(target.backup_folder):
        _remove_dataset(target.backup_folder)
