"""3-D volumes, written as NIfTI with their geometry."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..utils.errors import last_line
from ..utils.nifti import check_nifti
from ..utils.quiet import silence_libraries
from ..utils.tables import format_size
from .case import CaseData, SourceCase
from .labels import MaskLabels, count_labels
from .problems import ProblemCode, UnusableError
from .sources import SourceFile
from .volume_files import Volume, read_volume, shorten_numbers

if TYPE_CHECKING:
    from .case import Reader

_POSITION_TOLERANCE = 0.05  # in voxels; headers are rounded
_NIBABEL_READER = "NibabelIO"


class NiftiWriter:
    """The part of a reader that is the same for all volumes."""

    ending = ".nii.gz"

    def prepare(self, cases: Sequence[SourceCase], workers: int) -> tuple["Reader", list[str]]:
        return self, []  # type: ignore[return-value]  # subclasses have `read`

    def write(self, image: Volume, path: Path) -> None:
        import nibabel
        import SimpleITK as sitk  # noqa: N813

        try:
            if image.sheared is None:
                sitk.WriteImage(image.image, path, useCompression=True)
            else:
                array = sitk.GetArrayViewFromImage(image.image).T
                nibabel.save(nibabel.Nifti1Image(array, image.sheared, dtype=array.dtype), path)
            check_nifti(path)
        except (RuntimeError, ValueError) as error:
            raise OSError(None, f"not written completely: {last_line(error)}", str(path)) from None

    def load_preview(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        import nibabel

        with silence_libraries():
            volume, label_map = (np.asarray(nibabel.load(path).dataobj).T for path in (image, labels))  # type: ignore[attr-defined]
        fullest = int(np.count_nonzero(label_map, axis=(1, 2)).argmax())
        return volume[fullest], label_map[fullest]


@dataclass(frozen=True)
class NiftiReader(NiftiWriter):
    """Reads NIfTI and other formats of volumes; spacing, origin and direction are kept.

    Attributes:
        mask_labels: the meaning of the values of the masks.
        window: (lowest, highest) value to clip images to, None keeps them.
    """

    mask_labels: MaskLabels
    window: tuple[int, int] | None = None

    def read(self, case: SourceCase) -> CaseData:
        import SimpleITK as sitk  # noqa: N813

        (file,) = case.image
        volume, changes = read_volume(file)
        array = sitk.GetArrayViewFromImage(volume.image)
        labels = None
        counts: dict[int, int] = {}
        if case.mask:
            labels, mask_changes = self._read_mask(case.mask[0], file, volume)
            changes += mask_changes
            counts = count_labels(sitk.GetArrayViewFromImage(labels.image))
        if self.window and (array.min() < self.window[0] or array.max() > self.window[1]):
            changes.append(f"clipped to {list(self.window)}")
            volume = Volume(sitk.Clamp(volume.image, volume.image.GetPixelID(), *self.window), volume.sheared)
        reader = None if volume.sheared is None else _NIBABEL_READER
        return CaseData(volume, labels, changes, counts, reader)

    def _read_mask(self, file: SourceFile, image_file: SourceFile, image: Volume) -> tuple[Volume, list[str]]:
        import SimpleITK as sitk  # noqa: N813

        mask, changes = read_volume(file)
        if mask.image.GetSize() != image.image.GetSize():
            size, image_size = format_size(mask.image.GetSize()), format_size(image.image.GetSize())
            text = f"the mask has {size} voxels, its image {image_file.name} {image_size} (x, y, z)"
            raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, text)
        difference, tolerance = _largest_distance(mask, image), _tolerance(image)
        if difference > tolerance:
            text = (
                f"voxels of the mask and of its image {image_file.name} are up to {difference:.3g} mm apart, more than"
            )
            geometry = f"{_describe_difference(mask, image)}; resample the mask first"
            raise UnusableError(file.name, ProblemCode.GEOMETRY_MISMATCH, f"{text} {tolerance:.2g} mm; {geometry}")
        values, mask_changes = self.mask_labels.apply(sitk.GetArrayFromImage(mask.image), file.name)
        labels = sitk.GetImageFromArray(values)
        labels.CopyInformation(image.image)
        mask_changes = [f"mask: {change}" for change in changes] + mask_changes
        return Volume(labels, image.sheared), mask_changes


def _largest_distance(mask: Volume, image: Volume) -> float:
    """The largest distance in mm between the positions of the same voxel in two volumes of one size."""
    ends = [(0, length - 1) for length in image.image.GetSize()]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)])
    return float(np.linalg.norm((corners @ (mask.affine - image.affine).T)[:, :3], axis=1).max())


def _tolerance(image: Volume) -> float:
    """The distance in mm up to which two geometries are the same."""
    return _POSITION_TOLERANCE * min(image.image.GetSpacing())


def _describe_difference(mask: Volume, image: Volume) -> str:
    """Spacing, origin or direction, whichever differ, of mask and image."""
    parts = []
    for title in ("Spacing", "Origin", "Direction"):
        values, expected = (getattr(volume.image, f"Get{title}")() for volume in (mask, image))
        if not np.allclose(values, expected, rtol=0, atol=1e-3):
            parts.append(f"{title.lower()} {shorten_numbers(values)} and {shorten_numbers(expected)}")
    return ", ".join(parts) or "the axes differ"
