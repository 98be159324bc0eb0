"""nnU-Net's choice of the reader for the files of a dataset."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .nifti import check_nifti
from .quiet import silence_libraries

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_MAX_EXAMPLES = 10


def choose_reader(
    dataset_json: Mapping[str, Any], examples: Iterable[Path], plans: Mapping[str, Any] | None = None
) -> type["BaseReaderWriter"]:
    """Choose the reader as nnU-Net does: by the plans, by dataset.json, or the first that can read an example file.

    Args:
        dataset_json: the content of dataset.json; its `file_ending` and `overwrite_image_reader_writer` count.
        examples: files of the dataset. A file that no reader can read does not decide.
        plans: the content of a plans file, which names the reader that was chosen when the dataset was planned.

    Raises:
        UserError: if the plans name a reader that nnU-Net does not have, or no reader reads files of this ending.
    """
    from nnunetv2.imageio.reader_writer_registry import (
        LIST_OF_IO_CLASSES,
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    if name := (plans or {}).get("image_reader_writer"):
        try:
            return recursive_find_reader_writer_by_name(name)
        except RuntimeError:
            raise UserError(f"the plans name the reader {name}, which this version of nnU-Net does not have") from None
    for example in list(examples)[:_MAX_EXAMPLES]:
        with silence_libraries(), contextlib.suppress(RuntimeError, ValueError, OSError):
            check_nifti(example)
            return determine_reader_writer_from_dataset_json(dict(dataset_json), str(example), verbose=False)
    try:
        return determine_reader_writer_from_dataset_json(dict(dataset_json), verbose=False)
    except RuntimeError:
        endings = sorted({ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings})
        text = f"the file_ending of dataset.json is {dataset_json['file_ending']!r}, but nnU-Net reads"
        raise UserError(f"{text} {', '.join(endings)}") from None


def find_other_reader(ending: str, path: Path, reader: type["BaseReaderWriter"]) -> str | None:
    """The name of another reader of nnU-Net's that can read a file, or None."""
    with contextlib.suppress(UserError):
        other = choose_reader({"file_ending": ending}, [path])
        with silence_libraries(), contextlib.suppress(Exception):  # readers raise different exceptions
            other().read_seg(str(path))
            return other.__name__ if other is not reader else None
    return None
