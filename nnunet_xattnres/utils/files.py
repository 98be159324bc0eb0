"""Files that are there in full or not at all."""

import json
import os
from pathlib import Path

from .errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that, whatever happens, the old or the new content is under its name.

    A link stays one; a device or pipe is written to as it is.

    Raises:
        UserError: if it cannot be written.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text)
            return
        try:
            part.write_text(text)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place or make room") from None


def read_json(path: Path, what: str) -> dict:
    """The object in a JSON file.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        UserError: if it cannot be read, or holds no object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as {what} ({error}): mend it or name another") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read as {what}: expected an object, got {type(content).__name__}")
    return content
