"""3-D volumes as NIfTI with their geometry, and TransUNet's slices and volumes without one."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..nifti import check_complete
from .case import Case, Content, count_labels
from .labels import BinaryMask, LabelMap
from .problems import UnusableError
from .sources import File

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

ENDINGS = (".nii.gz", ".nii")
WINDOW = (-125, 275)
"""The paper's clip window for abdominal CT, HU."""

_SAME_GEOMETRY = 1e-3  # mm, and of the direction cosines: what rounding in headers makes
_ROUNDED = 1e-3  # HU
_NOT_FINITE = "holds values that are not finite (NaN): mend it first"


class _NiftiWriter:
    """The half of a reader that is the same for all volumes."""

    ending = ".nii.gz"

    def write(self, content: "sitk.Image", path: Path) -> None:
        import SimpleITK as sitk  # noqa: N813

        try:
            sitk.WriteImage(content, path, useCompression=True)
            check_complete(path)
        except (RuntimeError, ValueError) as error:
            raise OSError(None, f"not written whole: {str(error).strip().splitlines()[-1]}", str(path)) from None

    def show(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        import SimpleITK as sitk  # noqa: N813

        volume, label_map = (sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (image, labels))
        fullest = int(np.count_nonzero(label_map, axis=(1, 2)).argmax())
        return volume[fullest], label_map[fullest]


@dataclass(frozen=True)
class NiftiReader(_NiftiWriter):
    """Reads NIfTI; spacing, origin and direction stay.

    Attributes:
        masks: what the values of the label maps mean.
        window: (lowest, highest) value to clip images to, None keeps them.
    """

    masks: BinaryMask | LabelMap
    window: tuple[int, int] | None = None

    def read(self, case: Case) -> Content:
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
        return Content(image, labels, changes, counts)

    def _labels(self, file: File, image_file: File, image: "sitk.Image") -> tuple["sitk.Image", list[str]]:
        import SimpleITK as sitk  # noqa: N813

        mask = read_nifti(file)
        if mask.GetSize() != image.GetSize():
            sizes = f"{_text(mask.GetSize())} voxels, its image {image_file.name} {_text(image.GetSize())} (x, y, z)"
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
            check_complete(path)
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
        raise UnusableError(file.name, _NOT_FINITE)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        form = f"{image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()} channels"
        raise UnusableError(file.name, f"is {form}; expected a 3-D volume with one channel")
    return image


@dataclass(frozen=True)
class ArrayReader(_NiftiWriter):
    """Reads TransUNet's arrays (.npz, one slice a file, or .h5, a volume); back in HU, with the spacing that is told.

    Attributes:
        masks: what the values of `label` mean.
        spacing: of the voxels (x, y, z), mm: the arrays have none.
    """

    masks: LabelMap
    spacing: tuple[float, float, float]

    def read(self, case: Case) -> Content:
        import SimpleITK as sitk  # noqa: N813

        name, images, label_maps = case.image[0].name, [], []
        changes = [f"0..1 back to {list(WINDOW)} HU", f"spacing set to {list(self.spacing)} mm"]
        for file in case.image:
            image, values = read_arrays(file)
            if images and image.shape != images[0].shape:
                sizes = f"{_text(image.shape)}, where {name} has {_text(images[0].shape)}"
                raise UnusableError(file.name, f"sizes differ within the case: {sizes}")
            labels, mapped = self.masks.apply(values, file.name)
            images.append(image)
            label_maps.append(labels)
            changes += [change for change in mapped if change not in changes]
        image, labels = (np.stack(a) if len(a) > 1 else a[0] for a in (images, label_maps))
        if image.ndim != 3:
            raise UnusableError(name, f"holds an image of shape {_text(image.shape)}; expected a volume or slices")
        hu = image * np.float32(WINDOW[1] - WINDOW[0]) + np.float32(WINDOW[0])
        rounded = np.rint(hu)
        hu = rounded.astype(np.int16) if np.abs(hu - rounded).max() < _ROUNDED else hu
        volumes = []
        for array in (hu, labels):
            volumes.append(sitk.GetImageFromArray(array))
            volumes[-1].SetSpacing(self.spacing)
        return Content(*volumes, changes, count_labels(labels))


def read_arrays(file: File) -> tuple[np.ndarray, np.ndarray]:
    """`image` and `label` of a .npz or .h5 file.

    Raises:
        UnusableError: if it cannot be read, or one of them is missing or they differ in shape.
    """
    data = io.BytesIO(file.read())
    try:
        if file.ending == ".npz":
            with np.load(data) as archive:
                image, label = archive["image"], archive["label"]
        else:
            import h5py

            with h5py.File(data) as archive:
                image, label = archive["image"][()], archive["label"][()]
        image, label = np.asarray(image, np.float32), np.asarray(label)
    except Exception as error:  # zipfile's, zlib's, NumPy's or HDF5's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnusableError(file.name, f"cannot be read as arrays `image` and `label` ({reason})") from None
    if image.shape != label.shape:
        raise UnusableError(file.name, f"sizes differ: image {_text(image.shape)}, label {_text(label.shape)}")
    if not np.isfinite(image).all():
        raise UnusableError(file.name, _NOT_FINITE)
    if image.min() < 0 or image.max() > 1:
        raise UnusableError(file.name, "its image goes beyond 0..1; expected TransUNet's form, (HU + 125) / 400")
    return image, label


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
