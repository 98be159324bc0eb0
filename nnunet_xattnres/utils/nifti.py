"""Detection of truncated and damaged NIfTI files.

ITK reports neither a truncated file when it reads, nor a full disk when it writes.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 22


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its name.

    >>> is_nifti(Path("la_003.nii.gz")), is_nifti(Path("la_003.nrrd"))
    (True, False)
    """
    return path.name.endswith((".nii", ".nii.gz"))


def check_nifti(path: Path) -> None:
    """Check that a NIfTI file is as long as its header says, and that its compression is intact.

    Files of other formats are not checked: their readers detect damage themselves.

    Raises:
        ValueError: if the file is truncated or damaged, or is no NIfTI file in spite of its name.
    """
    if not is_nifti(path):
        return
    import nibabel

    try:
        with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as file:
            num_bytes = sum(map(len, iter(lambda: file.read(_CHUNK_BYTES), b"")))
        image: Any = nibabel.load(path)  # typed as a base class without these attributes
        expected_bytes = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"truncated or damaged: {error}") from None
    except nibabel.filebasedimages.ImageFileError as error:
        raise ValueError(f"not a NIfTI file: {error}") from None
    if num_bytes < expected_bytes:
        raise ValueError(f"truncated: {num_bytes} bytes, but the header says {expected_bytes}")
