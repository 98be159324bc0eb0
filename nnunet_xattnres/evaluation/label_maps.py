"""Label maps with their geometry, as nnU-Net's readers return them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import last_line
from ..utils.label_values import format_values, snap_to_integers
from ..utils.nifti import check_nifti, explain_compression, find_shadowing_file
from ..utils.quiet import silence_libraries
from ..utils.readers import find_other_reader
from ..utils.tables import format_size
from .labels import Labels
from .problems import NotComparableError, ScoringProblemCode

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_SPACING_TOLERANCE = 1e-3
"""Relative: headers are rounded."""

_SHEAR_TOLERANCE = 1e-3
"""The cosine of the angle between two axes."""

_POSITION_TOLERANCE = 0.25
"""In voxels, at the corners of the volume, where rounded directions and spacings add up."""


@dataclass(frozen=True)
class LabelMap:
    """A label map and where its voxels are.

    Attributes:
        values: int32 (z, y, x).
        spacing: mm per voxel (z, y, x).
        affine: matrix (4, 4) from voxel indices (x, y, z) to mm, (3, 3) of an image; None where files have none.
        notes: what was replaced in the values or in the header, one line each.
    """

    values: np.ndarray
    spacing: tuple[float, ...]
    affine: np.ndarray | None
    notes: tuple[str, ...] = ()


def has_spacing(reader: type["BaseReaderWriter"]) -> bool:
    """Whether the files of a reader have a spacing in mm. nnU-Net's natural images (PNG, BMP, 2-D TIF) have none."""
    return reader.__name__ != "NaturalImage2DIO"


def read_label_map(path: Path, reader: type["BaseReaderWriter"], labels: Labels) -> LabelMap:
    """Read a label map with one of nnU-Net's readers.

    Raises:
        NotComparableError: if it cannot be read, has several channels, values that the labels do not have, or a header
            without a valid spacing and position.
    """
    try:
        path.open("rb").close()  # readers have less clear messages where this fails
        notes = check_nifti(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NotComparableError(ScoringProblemCode.UNREADABLE, f"{path} cannot be read ({reason})") from None
    try:
        with silence_libraries():
            array, header = reader().read_seg(str(path))
    except Exception as error:  # the readers of different libraries raise different exceptions
        raise NotComparableError(ScoringProblemCode.UNREADABLE, _explain(path, reader, labels.ending, error)) from None
    if "sitk_stuff" in header and (other := find_shadowing_file(path)):
        message = f"beside {path} is {other.name}, whose voxels ITK reads instead: remove one of the two files"
        raise NotComparableError(ScoringProblemCode.UNREADABLE, message)
    if array.shape[0] != 1:
        message = f"{path} has {array.shape[0]} channels, but a label map has one"
        if path.name.lower().endswith(".tif"):
            message += ': of a volume, write "overwrite_image_reader_writer": "Tiff3DIO" to dataset.json'
        raise NotComparableError(ScoringProblemCode.CHANNELS, message)
    values, changes = snap_to_integers(array[0])
    unknown = np.unique(values[~np.isin(values, list(labels.known))])
    if len(unknown):
        known = ", ".join(map(str, sorted(labels.known)))
        message = f"{path} has the values {format_values(unknown)}, but dataset.json has {known}"
        raise NotComparableError(ScoringProblemCode.UNKNOWN_VALUES, message)
    spacing = tuple(map(float, header["spacing"]))
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        message = f"{path} has the spacing {_format(spacing, ' x ')} mm (z, y, x): write the true one to its header"
        raise NotComparableError(ScoringProblemCode.SPACING, message)
    if reader.__name__ == "Tiff3DIO" and not (side := path.with_suffix(".json")).is_file():
        notes.append(f"{side.name} is missing, so the spacing is taken as 1 x 1 x 1 mm")
    affine = _affine(header)
    if affine is not None and not np.isfinite(affine).all():
        message = f"{path} has NaN or infinity in the affine matrix of its header: write the true one"
        raise NotComparableError(ScoringProblemCode.ORIGIN, message)
    if affine is not None and not np.allclose((d := _direction(affine)).T @ d, np.eye(len(d)), atol=_SHEAR_TOLERANCE):
        notes.append("the axes are not perpendicular, but distances are computed as if they were")
    return LabelMap(values.astype(np.int32), spacing, affine, (*changes, *notes))


def _explain(path: Path, reader: type["BaseReaderWriter"], ending: str, error: Exception) -> str:
    """One line: why a file cannot be read, and what to do where this is known."""
    hint = ""
    if compression := explain_compression(path):
        hint = f": {compression}"
    elif other := find_other_reader(ending, path, reader):
        entry = f'"overwrite_image_reader_writer": "{other}"'
        hint = f": nnU-Net's {other} can read it, which {entry} in dataset.json chooses for all files"
    return f"{path} cannot be read by nnU-Net's {reader.__name__} ({last_line(error)}){hint}"


def _affine(header: dict[str, Any]) -> np.ndarray | None:
    """The matrix from voxel indices to mm that a reader has found in the header of a file."""
    if nibabel_entries := header.get("nibabel_stuff"):
        return np.asarray(nibabel_entries.get("reoriented_affine", nibabel_entries["original_affine"]), float)
    if not (itk_entries := header.get("sitk_stuff")):
        return None
    dimensions = len(itk_entries["spacing"])
    direction = np.reshape(itk_entries["direction"], (dimensions, dimensions))
    dimensions = min(dimensions, 3)  # a fourth dimension of size 1 is none
    affine = np.eye(dimensions + 1)
    affine[:-1, :-1] = direction[:dimensions, :dimensions] * itk_entries["spacing"][:dimensions]
    affine[:-1, -1] = itk_entries["origin"][:dimensions]
    return affine


def check_same_geometry(prediction: LabelMap, reference: LabelMap) -> None:
    """Raise a NotComparableError unless two label maps have the same shape, spacing and position."""
    shapes = prediction.values.shape, reference.values.shape
    if shapes[0] != shapes[1]:
        texts = [format_size(shape) for shape in shapes]
        text = f"the shapes differ (z, y, x): the prediction has {texts[0]}, the reference {texts[1]}"
        raise NotComparableError(ScoringProblemCode.SHAPE, text)
    if not np.allclose(prediction.spacing, reference.spacing, rtol=_SPACING_TOLERANCE, atol=0):
        texts = [_format(label_map.spacing, " x ") + " mm" for label_map in (prediction, reference)]
        text = f"the spacings differ (z, y, x): the prediction has {texts[0]}, the reference {texts[1]}"
        notes = "".join(f" ({note})" for label_map in (prediction, reference) for note in label_map.notes)
        raise NotComparableError(ScoringProblemCode.SPACING, f"{text}{notes}; the tolerance is 0.1 %")
    if prediction.affine is not None and reference.affine is not None:
        _check_same_position(prediction.affine, reference.affine, shapes[0])


def _check_same_position(predicted: np.ndarray, referenced: np.ndarray, shape: Sequence[int]) -> None:
    """Raise a NotComparableError unless two affine matrices put the voxels of a volume at the same positions."""
    if predicted.shape != referenced.shape:
        text = f"the prediction is {len(predicted) - 1}-D, the reference {len(referenced) - 1}-D"
        raise NotComparableError(ScoringProblemCode.DIRECTION, text)
    size = shape[::-1][: len(predicted) - 1]
    corners = np.stack(np.meshgrid(*([0, n - 1] for n in size), [1]), -1).reshape(-1, len(predicted)).T
    shifts = np.linalg.norm(((predicted - referenced) @ corners)[:-1], axis=0)  # mm
    in_voxels = np.abs(np.linalg.pinv(referenced[:-1, :-1]) @ ((predicted - referenced) @ corners)[:-1])
    if in_voxels.max() <= _POSITION_TOLERANCE:
        return
    directions, origins = [_direction(predicted), _direction(referenced)], [predicted[:-1, -1], referenced[:-1, -1]]
    texts, code = [], ScoringProblemCode.ORIGIN
    if not np.allclose(directions[0], directions[1], rtol=0, atol=_SPACING_TOLERANCE):
        code = ScoringProblemCode.DIRECTION
        matrices = [", ".join(_format(row, " ") for row in direction) for direction in directions]
        texts.append(f"the directions differ: the prediction has [{matrices[0]}], the reference [{matrices[1]}]")
    if not np.allclose(origins[0], origins[1], rtol=0, atol=_SPACING_TOLERANCE) or not texts:
        texts.append(
            f"the origins differ (x, y, z): the prediction has {_format(origins[0], ', ')} mm, "
            f"the reference {_format(origins[1], ', ')} mm"
        )
    limit = f"voxels are up to {shifts.max():.4g} mm apart, {in_voxels.max():.3g} voxels"
    raise NotComparableError(code, f"{'; '.join(texts)}; {limit}, the tolerance is {_POSITION_TOLERANCE:g} voxels")


def _direction(affine: np.ndarray) -> np.ndarray:
    return affine[:-1, :-1] / np.maximum(np.linalg.norm(affine[:-1, :-1], axis=0), np.finfo(float).tiny)


def _format(numbers: Sequence[float] | np.ndarray, separator: str) -> str:
    return separator.join(f"{number + 0:.5g}" for number in numbers)  # -0 + 0 is 0
