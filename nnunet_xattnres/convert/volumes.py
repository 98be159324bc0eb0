"""3-D volumes as NIfTI, with their geometry."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..utils.nifti import check_nifti
from .case import Case, CaseData, count_labels
from .labels import BinaryMask, LabelMap
from .problems import UnusableError
from .sources import File

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

ENDINGS = (".nii.gz", ".nii")
WINDOW = (-125, 275)
"""The paper's clip window for abdominal CT, HU."""

_SAME_GEOMETRY = 1e-3  # mm, and of the direction cosines: what rounding in headers makes
NOT_FINITE = "holds values that are not finite (NaN): mend it first"


class NiftiWriter:
    """The half of a reader that is the same for all volumes."""

    ending = ".nii.gz"

    def write(self, content: "sitk.Image", path: Path) -> None:
        import SimpleITK as sitk  # noqa: N813

        try:
            sitk.WriteImage(content, path, useCompression=True)
            check_nifti(path)
        except (RuntimeError, ValueError) as error:
            raise OSError(None, f"not written whole: {str(error).strip().splitlines()[-1]}", str(path)) from None

    def show(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        import SimpleITK as sitk  # noqa: N813

        volume, label_map = (sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (image, labels))
        fullest = int(np.count_nonzero(label_map, axis=(1, 2)).argmax())
        return volume[fullest], label_map[fullest]


@dataclass(frozen=True)
class NiftiReader(NiftiWriter):
    """Reads NIfTI; spacing, origin and direction stay.

    Attributes:
        masks: what the values of the label maps mean.
        window: (lowest, highest) value to clip images to, None keeps them.
    """

    masks: BinaryMask | LabelMap
    window: tuple[int, int] | None = None

    def read(self, case: Case) -> CaseData:
        import SimpleITK as sitk  # noqa: N813

        (file,) = case.image
        image, changes = read_nifti(file), []
        array = sitk.GetArrayViewFromImage(image)
        labels = None
        if case.mask:
            labels, changes = self._labels(case.mask[0], file, image)
        if self.window and (array.min() < self.window[0] or array.max() > self.window[1]):
            changes.append(f"clipped to {list(self.window)}")
            image = sitk.Clamp(image, image.GetPixelID(), *self.window)
        counts = count_labels(sitk.GetArrayViewFromImage(labels)) if labels is not None else {}
        return CaseData(image, labels, changes, counts)

    def _labels(self, file: File, image_file: File, image: "sitk.Image") -> tuple["sitk.Image", list[str]]:
        import SimpleITK as sitk  # noqa: N813

        mask = read_nifti(file)
        if mask.GetSize() != image.GetSize():
            sizes = f"{text(mask.GetSize())} voxels, its image {image_file.name} {text(image.GetSize())} (x, y, z)"
            raise UnusableError(file.name, f"sizes differ: {sizes}")
        geometries = [(*i.GetSpacing(), *i.GetOrigin(), *i.GetDirection()) for i in (mask, image)]
        if not np.allclose(*geometries, rtol=0, atol=_SAME_GEOMETRY):
            wanted = "mask and image must have one spacing, origin and direction"
            raise UnusableError(file.name, f"does not lie where its image {image_file.name} lies: {wanted}")
        values, changes = self.masks.apply(sitk.GetArrayFromImage(mask), file.name)
        labels = sitk.GetImageFromArray(values)
        labels.CopyInformation(image)
        return labels, changes


def read_nifti(file: File) -> "sitk.Image":
    """A 3-D volume of one channel.

    Raises:
        UnusableError: if it is damaged, truncated, or not such a volume.
    """
    import nibabel
    import SimpleITK as sitk  # noqa: N813

    try:
        with file.local() as path:
            path.open("rb").close()
            check_nifti(path)
            stored = nibabel.load(path)
            # ITK makes zeros of them
            finite = stored.get_data_dtype().kind not in "fc" or np.isfinite(np.asarray(stored.dataobj)).all()
            image = sitk.ReadImage(path)
    except OSError as error:
        raise UnusableError(file.name, f"cannot be read ({error.strerror})") from None
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UnusableError(file.name, f"cannot be read ({reason}): copy or download it again") from None
    if not finite:
        raise UnusableError(file.name, NOT_FINITE)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        form = f"{image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()} channels"
        raise UnusableError(file.name, f"is {form}; expected a 3-D volume with one channel")
    return image


def text(shape: tuple[int, ...]) -> str:
    """A size in words, such as 512x512x200."""
    return "x".join(map(str, shape))
