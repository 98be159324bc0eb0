"""Whether a NIfTI file is whole: ITK reads the rest of a truncated one, and writes to a full disk, without a word."""

import gzip
import math
import zlib
from pathlib import Path

_CHUNK = 1 << 22


def is_nifti(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz"))


def check_complete(path: Path) -> None:
    """Raise a ValueError if a NIfTI file is shorter than its header says, or its compression is damaged.

    Files of other kinds pass; their readers look for themselves.
    """
    if not is_nifti(path):
        return
    import nibabel

    try:
        with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file:
            length = sum(map(len, iter(lambda: file.read(_CHUNK), b"")))
        image = nibabel.load(path)
        needed = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"truncated or damaged: {error}") from None
    except nibabel.filebasedimages.ImageFileError as error:
        raise ValueError(f"not a NIfTI file: {error}") from None
    if length < needed:
        raise ValueError(f"truncated: {length} bytes, where the header asks for {needed}")
