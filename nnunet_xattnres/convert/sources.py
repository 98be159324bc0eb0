"""The files of a source, in folders and zip archives alike, which are only ever read."""

import contextlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..utils.errors import UserError
from .problems import Problem, UnusableError

_DOUBLE_ENDINGS = (".nii.gz", ".npy.h5")
_NOT_CONTENT = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True, order=True)
class File:
    """A file of the source.

    Attributes:
        name: how the user knows it, from the source's folder on, with slashes.
        path: the file on disk, or the archive that holds it.
        member: its name in the archive.
    """

    name: str
    path: Path
    member: str | None = None

    @property
    def ending(self) -> str:
        """From the last dot on, in small letters; .nii.gz and .npy.h5 as one."""
        name = PurePosixPath(self.name).name
        return next((e for e in _DOUBLE_ENDINGS if name.lower().endswith(e)), PurePosixPath(name).suffix.lower())

    @property
    def stem(self) -> str:
        name = PurePosixPath(self.name).name
        return name[: len(name) - len(self.ending)]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders it lies in, from the source on."""
        return PurePosixPath(self.name).parts[:-1]

    def read(self) -> bytes:
        """The whole content.

        Raises:
            UnusableError: if it cannot be read.
        """
        try:
            if self.member is None:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, RuntimeError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:  # also encrypted
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UnusableError(self.name, f"cannot be read ({reason})") from None

    @contextlib.contextmanager
    def local(self) -> Iterator[Path]:
        """A path for libraries that want one; what an archive holds is unpacked for as long."""
        if self.member is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{self.ending}"
            path.write_bytes(self.read())
            yield path

    def version(self) -> list[int]:
        """Size and time of change on disk: another version of the file has others."""
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns]


def scan(sources: Sequence[Path]) -> tuple[list[File], list[Problem]]:
    """All files of folders and zip archives in order, and names in archives that must not be followed.

    Raises:
        UserError: if a source does not exist, is neither folder nor zip archive, or there is no file at all.
    """
    files: list[File] = []
    problems: list[Problem] = []
    for source in sources:
        prefix = f"{source.name}/" if len(sources) > 1 else ""
        if source.is_dir():
            files += _in_folder(source, prefix)
        elif zipfile.is_zipfile(source):
            found, unsafe = _in_archive(source, prefix)
            files += found
            problems += unsafe
        elif source.exists():
            raise UserError(f"{source} is neither a folder nor a zip archive: unpack it, or download it again")
        else:
            raise UserError(f"{source} does not exist: name the folder or zip archive that was downloaded")
    if not files and not problems:
        raise UserError(
            f"no files in {', '.join(map(str, sources))}: name the folder or zip archive that was downloaded"
        )
    return sorted(files), problems


def _in_folder(source: Path, prefix: str) -> Iterator[File]:
    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions")

    walked = set()
    for folder, folders, names in os.walk(source, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [name for name in folders if _is_content(name) and real not in walked]
        if real in walked:  # links that lead in a circle
            continue
        walked.add(real)
        for name in filter(_is_content, names):
            path = Path(folder, name)
            yield File(prefix + path.relative_to(source).as_posix(), path)


def _in_archive(source: Path, prefix: str) -> tuple[list[File], list[Problem]]:
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{source} is a damaged zip archive ({error}): download it again") from None
    files, problems = [], []
    for member in members:
        parts = PurePosixPath(member.replace("\\", "/")).parts
        if not parts or member.endswith("/") or not all(_is_content(part) for part in parts if part != ".."):
            continue
        if ".." in parts or not is_safe(parts[0]):
            problems.append(Problem(f"{source.name}/{member}", "the name leaves the archive's folder: not followed"))
        else:
            files.append(File(prefix + "/".join(parts), source, member))
    return files, problems


def _is_content(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_CONTENT


def is_safe(name: str) -> bool:
    """Whether a name from a list or an archive can be a file's name: no path, nothing hidden, nothing unprintable."""
    return bool(name) and name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|')
