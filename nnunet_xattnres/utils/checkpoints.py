"""nnU-Net's checkpoints, with errors for users who name another file."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from .errors import UserError, last_line


def read_checkpoint(path: Path, weights_on_disk: bool = False) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net; its tensors are on the CPU.

    Args:
        path: the file.
        weights_on_disk: leave every tensor on the disk until it is used, for a look at the other entries. The file must
            not be changed before the tensors are dropped.

    Raises:
        UserError: if the file cannot be read, or is no such checkpoint.
    """
    try:
        # as nnU-Net loads it: the checkpoint holds more than tensors
        checkpoint = torch.load(
            path, map_location="cpu", weights_only=False, mmap=weights_on_disk and zipfile.is_zipfile(path)
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint of nnU-Net ({last_line(error)})") from None
    expected = {"network_weights", "init_args", "trainer_name"}
    if not isinstance(checkpoint, dict) or not expected <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of nnU-Net: expected entries {', '.join(sorted(expected))}")
    return checkpoint
