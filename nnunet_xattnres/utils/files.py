"""Atomic writing of text files, reading of JSON files with errors for users, and checksums."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .errors import UserError


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return
        try:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another path or free disk space") from None


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
