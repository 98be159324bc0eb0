"""The files of a source: folders and zip archives look the same to layouts and readers, and are never written to."""

import contextlib
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from ..utils.errors import UserError
from .problems import Problem, ProblemCode, UnusableError

_DOUBLE_ENDINGS = (".nii.gz", ".npy.h5")
_IGNORED_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file in a folder or in a zip archive.

    Attributes:
        name: path relative to the source, with slashes; this is how messages name the file.
        path: the file on disk, or the archive that holds it.
        member: name of the file in the archive, None if it is a file on disk.

    >>> file = SourceFile("Training/img/img0001.nii.gz", Path("RawData.zip"), "Training/img/img0001.nii.gz")
    >>> file.stem, file.ending, file.folders
    ('img0001', '.nii.gz', ('Training', 'img'))
    """

    name: str
    path: Path
    member: str | None = None

    @cached_property
    def ending(self) -> str:
        """The file ending in lower case; .nii.gz and .npy.h5 count as one ending."""
        name = self.name.rpartition("/")[2].lower()
        return next((e for e in _DOUBLE_ENDINGS if name.endswith(e)), PurePosixPath(name).suffix)

    @property
    def stem(self) -> str:
        """The file name without folders and ending."""
        name = self.name.rpartition("/")[2]
        return name[: len(name) - len(self.ending)]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the file, outermost first."""
        return PurePosixPath(self.name).parts[:-1]

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file opened for reading, which decompresses no more of an archive than what is read.

        Raises:
            UnusableError: if it cannot be read.
        """
        try:
            if self.member is None:
                with self.path.open("rb") as file:
                    yield file
            else:
                with _open_archive(self.path, tuple(self.version())).open(self.member) as file:
                    yield file
        except (zlib.error, zipfile.BadZipFile) as error:
            text = f"the file in the archive is damaged ({error}); download the archive again"
            raise UnusableError(self.name, ProblemCode.DAMAGED, text) from None
        except (OSError, RuntimeError, NotImplementedError) as error:  # RuntimeError: the archive is encrypted
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UnusableError(self.name, ProblemCode.UNREADABLE, f"the file cannot be read ({reason})") from None

    def read(self) -> bytes:
        """Read the whole file.

        Raises:
            UnusableError: if it cannot be read.
        """
        with self.open() as file:
            return file.read()

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """A path for libraries that need one; a file in an archive is extracted to a temporary folder meanwhile."""
        if self.member is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{self.ending}"
            path.write_bytes(self.read())
            yield path

    def version(self) -> list[int]:
        """Size and modification time on disk, which tell whether the file was changed."""
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True, order=True)
class HashedFile(SourceFile):
    """A file whose checksum is taken while its content is read, so that nothing is read twice."""

    _digests: list[str] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def of(cls, file: SourceFile) -> "HashedFile":
        """The same file, with a checksum."""
        return cls(file.name, file.path, file.member)

    def read(self) -> bytes:
        """Read the whole file; see `SourceFile.read`."""
        data = super().read()
        self._digests[:] = [hashlib.sha256(data).hexdigest()]
        return data

    def sha256(self) -> str:
        """The checksum of the content in hexadecimal; the file is read now if it was not read before."""
        if not self._digests:
            self.read()
        return self._digests[0]


@lru_cache(maxsize=16)
def _open_archive(path: Path, version: tuple[int, ...]) -> zipfile.ZipFile:
    """An archive, which stays open: reading the directory of a large archive takes longer than reading a file of it.

    Args:
        path: the archive.
        version: its size and modification time; an archive that has changed is opened again.
    """
    return zipfile.ZipFile(path)


def scan(sources: Sequence[Path]) -> tuple[list[SourceFile], list[Problem]]:
    """List all files of folders and zip archives.

    Returns:
        The files in order, and a problem for every name in an archive that points outside of it.

    Raises:
        UserError: if a source does not exist, is neither a folder nor a zip archive, is named twice, or if there is no
            file at all.
    """
    files: list[SourceFile] = []
    problems: list[Problem] = []
    for source, name in zip(sources, name_sources(sources), strict=True):
        prefix = name and f"{name}/"
        if source.is_dir():
            files += _scan_folder(source, prefix)
        elif zipfile.is_zipfile(source):
            archive_files, archive_problems = _scan_archive(source, prefix)
            files += archive_files
            problems += archive_problems
        elif source.exists():
            raise UserError(f"{source} is neither a folder nor a zip archive: unpack it, or download it again")
        else:
            raise UserError(f"{source} does not exist: name the folder or zip archive that was downloaded")
    if not files and not problems:
        raise UserError(
            f"no files in {', '.join(map(str, sources))}: name the folder or zip archive that was downloaded"
        )
    return sorted(files), problems


def name_sources(sources: Sequence[Path]) -> list[str]:
    """The first folders of the files of every source: none for a single one, else as many as tell the sources apart.

    >>> name_sources([Path("/a/data"), Path("/b/data")]), name_sources([Path("/a/data")])
    (['a/data', 'b/data'], [''])

    Raises:
        UserError: if a source is named twice.
    """
    if len(sources) == 1:
        return [""]
    for number in range(1, max(len(source.parts) for source in sources) + 1):
        names = ["/".join(source.parts[-number:]).strip("/") for source in sources]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"a source is named twice: {', '.join(map(str, sources))}")


def _scan_folder(source: Path, prefix: str) -> Iterator[SourceFile]:
    def raise_unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions")

    visited = set()
    for folder, folders, names in os.walk(source, onerror=raise_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [name for name in folders if not _is_ignored(name) and real not in visited]
        if real in visited:  # a symbolic link to a folder above
            continue
        visited.add(real)
        for name in names:
            if not _is_ignored(name):
                path = Path(folder, name)
                yield SourceFile(prefix + path.relative_to(source).as_posix(), path)


def _scan_archive(source: Path, prefix: str) -> tuple[list[SourceFile], list[Problem]]:
    try:
        status = source.stat()
        members = _open_archive(source, (status.st_size, status.st_mtime_ns)).namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{source} is a damaged zip archive ({error}): download it again") from None
    files, problems = [], []
    for member in members:
        parts = PurePosixPath(member.replace("\\", "/")).parts
        if not parts or member.endswith("/") or any(_is_ignored(part) for part in parts if part != ".."):
            continue
        if ".." in parts or not is_safe_name(parts[0]):
            text = "the name points outside the archive; the file is not read"
            problems.append(Problem(f"{source.name}/{member}", ProblemCode.UNSAFE_PATH, text))
        else:
            files.append(SourceFile(prefix + "/".join(parts), source, member))
    return files, problems


def _is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or one that operating systems create."""
    return name.startswith(".") or name in _IGNORED_NAMES


def is_safe_name(name: str) -> bool:
    """Whether a name from a list or an archive can be a file name: printable, not hidden, and not a path.

    >>> is_safe_name("ISIC_0000001"), is_safe_name("../ISIC_0000001"), is_safe_name("C:")
    (True, False, False)
    """
    return bool(name) and name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|')
