"""Reading of 3-D volumes from files that follow their format, their name, or the usual form only in part."""

import contextlib
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import last_line
from ..utils.nifti import check_nifti, find_shadowing_file, is_compressed
from ..utils.quiet import silence_libraries
from .problems import ProblemCode, UnusableError
from .sources import SourceFile

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

NOT_FINITE = "values are not finite (NaN or infinity); replace them first"
_ORTHONORMAL_TOLERANCE = 1e-4  # of direction cosines, as ITK has it
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Volume:
    """A 3-D volume with one channel.

    Attributes:
        image: the values; its geometry is right unless there is `sheared`.
        sheared: the affine matrix (voxel to RAS, mm) if its axes are not orthogonal, which ITK does not support.
    """

    image: "sitk.Image"
    sheared: np.ndarray | None = None

    @property
    def affine(self) -> np.ndarray:
        """The matrix (4, 4) from voxel indices (x, y, z) to RAS coordinates in mm."""
        if self.sheared is not None:
            return self.sheared
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.image.GetDirection(), (3, 3)) * self.image.GetSpacing()
        affine[:3, 3] = self.image.GetOrigin()
        return _LPS_TO_RAS @ affine


def read_volume(file: SourceFile) -> tuple[Volume, list[str]]:
    """Read a 3-D volume with one channel, as NIfTI or as another format of SimpleITK or nibabel.

    Returns:
        The volume, and descriptions of what differs from the file.

    Raises:
        UnusableError: if it is damaged, truncated, or not such a volume.
    """
    try:
        with file.on_disk() as path, _rightly_named(path, file) as (named, changes), silence_libraries():
            if file.ending in (".nii", ".nii.gz", ".mgz"):
                volume, more = _read_with_nibabel(named, file)
            else:
                volume, more = Volume(_read_with_itk(named)), []
    except (RuntimeError, ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        text = f"the file cannot be read ({last_line(error)}); copy or download it again"
        raise UnusableError(file.name, ProblemCode.DAMAGED, text) from None
    except OSError as error:
        text = f"the file cannot be read ({error.strerror or error})"
        raise UnusableError(file.name, ProblemCode.UNREADABLE, text) from None
    dimensions, channels = volume.image.GetDimension(), volume.image.GetNumberOfComponentsPerPixel()
    if dimensions != 3 or channels != 1:
        titles = f"{dimensions}-D with {channels} channel{'s' * (channels > 1)}"
        text = f"the volume is {titles}, expected 3-D with 1 channel"
        raise UnusableError(file.name, ProblemCode.DIMENSIONS, text)
    array = _array_view(volume.image)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnusableError(file.name, ProblemCode.NOT_FINITE, NOT_FINITE)
    if not all(0 < length < np.inf for length in volume.image.GetSpacing()):
        raise _bad_spacing(file, volume.image.GetSpacing())
    return volume, changes + more


@contextlib.contextmanager
def _rightly_named(path: Path, file: SourceFile) -> Iterator[tuple[Path, list[str]]]:
    """The path of a file whose ending says what it contains, for libraries that trust the ending; and the changes.

    It is a copy where the ending is wrong, or where ITK would read another file of the folder instead.
    """
    compressed = is_compressed(path)
    endings = {".nii": ".nii.gz" if compressed else ".nii", ".nii.gz": ".nii.gz" if compressed else ".nii"}
    ending = endings.get(file.ending, file.ending)
    text = ".nii.gz" if compressed else ".nii"
    changes = [] if ending == file.ending else [f"read as {text}, because the ending contradicts the content"]
    if path.name.endswith(ending) and not find_shadowing_file(path):
        yield path, changes
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"file{ending}"
        shutil.copyfile(path, copy)
        yield copy, changes


def _read_with_itk(path: Path) -> "sitk.Image":
    import SimpleITK as sitk  # noqa: N813

    return sitk.ReadImage(path)


def _read_with_nibabel(path: Path, file: SourceFile) -> tuple[Volume, list[str]]:
    """Read NIfTI or MGZ, by ITK if it can, as nnU-Net does, and otherwise by nibabel."""
    import nibabel

    check_nifti(path)
    try:
        stored: Any = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise ValueError(str(error)) from None
    array = np.asarray(stored.dataobj) if stored.get_data_dtype().kind in "fc" else None
    if array is not None and not np.isfinite(array).all():
        # ITK silently reads values that are not finite as zeros
        raise UnusableError(file.name, ProblemCode.NOT_FINITE, NOT_FINITE)
    affine, changes = _check_geometry(path, stored, file)
    if affine is None and len(stored.shape) == 3:
        with contextlib.suppress(RuntimeError):
            return Volume(_read_with_itk(path)), changes
    return _from_nibabel(stored, affine, changes, file)


def _check_geometry(path: Path, stored: Any, file: SourceFile) -> tuple[np.ndarray | None, list[str]]:
    """The affine matrix to use instead of what ITK would read, None if that is right; and the changes.

    Raises:
        UnusableError: if the voxel spacing is not known.
    """
    header = stored.header
    if "pixdim" not in header:
        return stored.affine, []
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as opened:
        spacing = type(header).from_fileobj(opened, check=False)["pixdim"][1:4].astype(float)
    valid = bool((np.isfinite(spacing) & (spacing != 0)).all())  # a negative sign has no meaning
    transforms = {"sform": header.get_sform(coded=True)[0], "qform": header.get_qform(coded=True)[0] if valid else None}
    coded = {name: matrix for name, matrix in transforms.items() if matrix is not None}
    good = {name: m for name, m in coded.items() if np.isfinite(m).all() and np.linalg.matrix_rank(m) == 4}
    if valid and len(good) == len(coded):
        return None, []
    if not good:
        if not valid:
            raise _bad_spacing(file, spacing.tolist())
        raise UnusableError(
            file.name,
            ProblemCode.SPACING,
            f"the {' and '.join(coded)} in the header is no valid matrix; write it again",
        )
    name, matrix = next(iter(good.items()))
    wrong = f"the spacing {shorten_numbers(spacing)}" if not valid else f"the {(coded.keys() - good.keys()).pop()}"
    return matrix, [f"geometry taken from the {name}, because the header has no valid value: {wrong}"]


def _from_nibabel(
    stored: Any, affine: np.ndarray | None, changes: list[str], file: SourceFile
) -> tuple[Volume, list[str]]:
    """A volume from nibabel's image."""
    import SimpleITK as sitk  # noqa: N813

    array = np.asarray(stored.dataobj)
    if array.dtype.kind not in "iuf" or len(array.shape) < 3 or any(n > 1 for n in array.shape[3:]):
        # NIfTI has the channels of a vector image in the fifth dimension
        channels = f"{array.shape[4]} channels" if array.ndim > 4 else f"values of the type {array.dtype}"
        text = f"the volume is {array.ndim}-D with {channels}, expected 3-D with 1 channel"
        raise UnusableError(file.name, ProblemCode.DIMENSIONS, text)
    if array.ndim > 3:
        changes = [*changes, "dimensions of size 1 removed"]
        array = array.reshape(array.shape[:3])
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if affine is None:
        affine = stored.affine if _has_transform(stored.header) else _plain_affine(stored.header)
    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if not (np.isfinite(lps).all() and spacing.all()):
        raise _bad_spacing(file, spacing.tolist())
    image, direction = sitk.GetImageFromArray(array.T), lps[:3, :3] / spacing
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    if np.allclose(direction.T @ direction, np.eye(3), rtol=0, atol=_ORTHONORMAL_TOLERANCE):
        image.SetDirection(direction.ravel().tolist())
        return Volume(image), changes
    return Volume(image, affine), [*changes, "the axes are sheared, which only nnU-Net's reader NibabelIO supports"]


def _has_transform(header: Any) -> bool:
    return "pixdim" not in header or bool(header["sform_code"] or header["qform_code"])


def _plain_affine(header: Any) -> np.ndarray:
    """The matrix that ITK uses if a header has neither sform nor qform."""
    return _LPS_TO_RAS @ np.diag([*np.abs(header["pixdim"][1:4].astype(float)), 1.0])


def _bad_spacing(file: SourceFile, spacing: Any) -> UnusableError:
    text = f"the voxel spacing in the header is {shorten_numbers(spacing)} mm, expected three lengths above 0"
    return UnusableError(file.name, ProblemCode.SPACING, f"{text}; write the right spacing into the header")


def shorten_numbers(values: Any) -> str:
    """Numbers for messages.

    >>> shorten_numbers([1.0, 0.5, 3.00001])
    '(1, 0.5, 3.00001)'
    """
    return f"({', '.join(f'{value:.6g}' for value in values)})"


def _array_view(image: "sitk.Image") -> np.ndarray:
    import SimpleITK as sitk  # noqa: N813

    return sitk.GetArrayViewFromImage(image)
