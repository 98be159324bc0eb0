"""Atomic writing of files and folders, reading of JSON files with errors for users, and checksums."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError, last_line


def write_atomic(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically: if writing fails or the process is killed, the old content stays.

    The target of a symbolic link is replaced, the link stays. A device or a pipe is written to directly. Bytes of file
    names that are no UTF-8 are written as escapes.

    Args:
        path: the file. Its folder must exist.
        text: the new content.

    Raises:
        UserError: if the file cannot be written.
    """
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return
        with replaced_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another path or free disk space") from None


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary file beside a file, with the same ending, which takes its place when the body ends without an error.

    If the body has not written it, nothing is replaced.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, whose content becomes that of a new folder when the body ends without an error.

    Args:
        path: the new folder, which must not exist or be empty. An empty one, such as a mounted volume, is kept.

    Raises:
        UserError: if the folder has content, is no folder, or cannot be written.
    """
    check_new_folder(path)
    parent = path if path.is_dir() else path.absolute().parent
    temporary = parent / f".{path.absolute().name}.{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.is_dir():
            _move_content(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        reason = error.strerror or last_line(error)
        raise UserError(f"cannot write {path} ({reason}): choose another folder or free disk space") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(path: Path) -> None:
    """Raise a UserError if there is something at a path that is no empty folder."""
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"-o {path} exists and is not an empty folder: choose another one, or move it away")


def _move_content(source: Path, target: Path) -> None:
    """Move what is in a folder into another one of the same file system, everything or nothing."""
    moved = []
    try:
        for path in sorted(source.iterdir()):
            moved.append((path, path.rename(target / path.name)))
    except BaseException:
        for before, after in moved:
            after.rename(before)
        raise


def read_json(path: Path, description: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: the file.
        description: what the file should be, for the error message, such as "nnU-Net's dataset.json".

    Raises:
        UserError: if the file cannot be read, is no JSON, or holds something else than an object.
    """
    try:
        content = json.loads(path.read_bytes())  # in UTF-8, -16 or -32, with a byte order mark or without
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as {description} ({error}): fix it or name another file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read as {description}: expected a JSON object, got {type(content).__name__}")
    return content


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
