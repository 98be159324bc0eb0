"""Detection of truncated and damaged NIfTI files, whatever their names say about compression.

ITK reports neither a truncated file when it reads, nor a full disk when it writes.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_CHUNK_BYTES = 1 << 22
_GZIP_MAGIC = b"\x1f\x8b"
_NOT_READ_BY_ITK = (".png", ".bmp", ".tif", ".tiff")
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its name.

    >>> is_nifti(Path("la_003.nii.gz")), is_nifti(Path("la_003.nrrd"))
    (True, False)
    """
    return path.name.endswith((".nii", ".nii.gz"))


def check_nifti(path: Path) -> list[str]:
    """Check that a NIfTI file is as long as its header says, and that its compression is intact.

    Of other formats that ITK reads, only the name is checked: their readers detect damage themselves.

    Returns:
        One line for everything in the header that readers silently replace.

    Raises:
        ValueError: if the file is truncated or damaged, or is no NIfTI file in spite of its name; or if the name would
            abort the process in ITK, which takes UTF-8 only.
    """
    try:
        if path.suffix not in _NOT_READ_BY_ITK:
            str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not valid UTF-8: rename it, or set PYTHONUTF8=1 in this locale") from None
    if not is_nifti(path):
        return []
    try:
        with (gzip.open if is_compressed(path) else open)(path, "rb") as file:
            start = file.read(_HEADER_BYTES)
            header = _parse_header(start)
            num_bytes = len(start) + sum(map(len, iter(lambda: file.read(_CHUNK_BYTES), b"")))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"truncated or damaged: {error}") from None
    expected_bytes = header.get_data_offset() + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    if num_bytes < expected_bytes:
        raise ValueError(f"truncated: {num_bytes} bytes, but the header says {expected_bytes}")
    spacing = header["pixdim"][1 : 1 + min(3, len(header.get_data_shape()))]
    if not (np.isfinite(spacing) & (spacing != 0)).all():
        values = " x ".join(f"{value:g}" for value in spacing)
        return [f"the header has the spacing {values} mm (x, y, z), where readers replace 0 and NaN by 1"]
    return []


def explain_compression(path: Path) -> str | None:
    """Say that the ending of a NIfTI file contradicts its compression, and what to do; None if it does not."""
    if not is_nifti(path) or is_compressed(path) == path.name.endswith(".gz"):
        return None
    if path.name.endswith(".gz"):
        return f"it is not compressed, in spite of its name: rename it to {path.stem}, or compress it with gzip"
    return f"it is compressed, in spite of its name: rename it to {path.name}.gz, or decompress it with gunzip"


def find_shadowing_file(path: Path) -> Path | None:
    """The file CASE.nii beside CASE.nii.gz, or None: of the two, ITK always reads the voxels of CASE.nii."""
    shadowing = path.with_suffix("")
    return shadowing if path.name.endswith(".nii.gz") and shadowing.is_file() else None


def is_compressed(path: Path) -> bool:
    """Whether the content of a file is gzip, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _parse_header(start: bytes) -> Any:
    """The header as nibabel's object, without nibabel's repairs.

    Raises:
        ValueError: if there is none.
    """
    import nibabel

    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        if kind.may_contain_header(start):
            header = kind(start[: kind.template_dtype.itemsize], check=False)
            try:
                header.get_data_dtype(), header.get_data_shape()
            except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
                raise ValueError(f"not a NIfTI file that can be read: {error}") from None
            return header
    raise ValueError("not a NIfTI file: it has no header of NIfTI-1 or NIfTI-2")
