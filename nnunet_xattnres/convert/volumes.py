"""3-D volumes as NIfTI, with their geometry."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ..utils.nifti import check_nifti
from .case import CaseData, SourceCase
from .labels import MaskLabels, count_labels
from .problems import ProblemCode, UnusableError, format_size
from .sources import SourceFile

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

_GEOMETRY_TOLERANCE = 1e-3  # in mm, and of the direction cosines; headers are rounded
NOT_FINITE = "values are not finite (NaN or infinity); replace them first"


class NiftiWriter:
    """The part of a reader that is the same for all volumes."""

    ending = ".nii.gz"

    def write(self, image: "sitk.Image", path: Path) -> None:
        import SimpleITK as sitk  # noqa: N813

        try:
            sitk.WriteImage(image, path, useCompression=True)
            check_nifti(path)
        except (RuntimeError, ValueError) as error:
            raise OSError(None, f"not written completely: {_last_line(error)}", str(path)) from None

    def load_preview(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        import SimpleITK as sitk  # noqa: N813

        volume, label_map = (sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (image, labels))
        fullest = int(np.count_nonzero(label_map, axis=(1, 2)).argmax())
        return volume[fullest], label_map[fullest]


@dataclass(frozen=True)
class NiftiReader(NiftiWriter):
    """Reads NIfTI; spacing, origin and direction are kept.

    Attributes:
        mask_labels: the meaning of the values of the masks.
        window: (lowest, highest) value to clip images to, None keeps them.
    """

    mask_labels: MaskLabels
    window: tuple[int, int] | None = None

    def read(self, case: SourceCase) -> CaseData:
        import SimpleITK as sitk  # noqa: N813

        (file,) = case.image
        image = read_nifti(file)
        array = sitk.GetArrayViewFromImage(image)
        labels = None
        changes: list[str] = []
        counts: dict[int, int] = {}
        if case.mask:
            labels, changes = self._read_mask(case.mask[0], file, image)
            counts = count_labels(sitk.GetArrayViewFromImage(labels))
        if self.window and (array.min() < self.window[0] or array.max() > self.window[1]):
            changes.append(f"clipped to {list(self.window)}")
            image = sitk.Clamp(image, image.GetPixelID(), *self.window)
        return CaseData(image, labels, changes, counts)

    def _read_mask(
        self, file: SourceFile, image_file: SourceFile, image: "sitk.Image"
    ) -> tuple["sitk.Image", list[str]]:
        import SimpleITK as sitk  # noqa: N813

        mask = read_nifti(file)
        if mask.GetSize() != image.GetSize():
            size, image_size = format_size(mask.GetSize()), format_size(image.GetSize())
            text = f"the mask has {size} voxels, its image {image_file.name} {image_size} (x, y, z)"
            raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, text)
        if not np.allclose(_geometry(mask), _geometry(image), rtol=0, atol=_GEOMETRY_TOLERANCE):
            text = f"the mask and its image {image_file.name} differ in spacing, origin or direction"
            raise UnusableError(file.name, ProblemCode.GEOMETRY_MISMATCH, f"{text}; resample the mask first")
        values, changes = self.mask_labels.apply(sitk.GetArrayFromImage(mask), file.name)
        labels = sitk.GetImageFromArray(values)
        labels.CopyInformation(image)
        return labels, changes


def read_nifti(file: SourceFile) -> "sitk.Image":
    """Read a 3-D volume with one channel.

    Raises:
        UnusableError: if it is damaged, truncated, or not such a volume.
    """
    import nibabel
    import SimpleITK as sitk  # noqa: N813

    try:
        with file.on_disk() as path:
            path.open("rb").close()
            check_nifti(path)
            stored = cast("nibabel.Nifti1Image", nibabel.load(path))  # its declared type has no data
            # ITK silently reads values that are not finite as zeros
            finite = stored.get_data_dtype().kind not in "fc" or np.isfinite(np.asarray(stored.dataobj)).all()
            image = sitk.ReadImage(path)
    except OSError as error:
        text = f"the file cannot be read ({error.strerror})"
        raise UnusableError(file.name, ProblemCode.UNREADABLE, text) from None
    except (RuntimeError, ValueError) as error:
        text = f"the file cannot be read ({_last_line(error)}); copy or download it again"
        raise UnusableError(file.name, ProblemCode.DAMAGED, text) from None
    if not finite:
        raise UnusableError(file.name, ProblemCode.NOT_FINITE, NOT_FINITE)
    dimensions, channels = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if dimensions != 3 or channels != 1:
        text = (
            f"the volume is {dimensions}-D with {channels} channel{'s' * (channels > 1)}, expected 3-D with 1 channel"
        )
        raise UnusableError(file.name, ProblemCode.DIMENSIONS, text)
    return image


def _geometry(image: "sitk.Image") -> tuple[float, ...]:
    return (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
