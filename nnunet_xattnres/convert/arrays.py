"""TransUNet's slices and volumes of Synapse: arrays without a geometry, images from 0 to 1."""

import io
from dataclasses import dataclass

import numpy as np

from .case import Case, CaseData, count_labels
from .labels import LabelMap
from .problems import UnusableError
from .sources import File
from .volumes import NOT_FINITE, WINDOW, NiftiWriter, text

_ROUNDED = 1e-3  # HU


@dataclass(frozen=True)
class ArrayReader(NiftiWriter):
    """Reads TransUNet's arrays (.npz, one slice a file, or .h5, a volume); back in HU, with the spacing that is told.

    Attributes:
        masks: what the values of `label` mean.
        spacing: of the voxels (x, y, z), mm: the arrays have none.
    """

    masks: LabelMap
    spacing: tuple[float, float, float]

    def read(self, case: Case) -> CaseData:
        import SimpleITK as sitk  # noqa: N813

        name, images, label_maps = case.image[0].name, [], []
        changes = [f"0..1 back to {list(WINDOW)} HU", f"spacing set to {list(self.spacing)} mm"]
        for file in case.image:
            image, values = read_arrays(file)
            if images and image.shape != images[0].shape:
                sizes = f"{text(image.shape)}, where {name} has {text(images[0].shape)}"
                raise UnusableError(file.name, f"sizes differ within the case: {sizes}")
            labels, mapped = self.masks.apply(values, file.name)
            images.append(image)
            label_maps.append(labels)
            changes += [change for change in mapped if change not in changes]
        image, labels = (np.stack(a) if len(a) > 1 else a[0] for a in (images, label_maps))
        if image.ndim != 3:
            raise UnusableError(name, f"holds an image of shape {text(image.shape)}; expected a volume or slices")
        hu = image * np.float32(WINDOW[1] - WINDOW[0]) + np.float32(WINDOW[0])
        rounded = np.rint(hu)
        hu = rounded.astype(np.int16) if np.abs(hu - rounded).max() < _ROUNDED else hu
        volumes = []
        for array in (hu, labels):
            volumes.append(sitk.GetImageFromArray(array))
            volumes[-1].SetSpacing(self.spacing)
        return CaseData(*volumes, changes, count_labels(labels))


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
        raise UnusableError(file.name, f"sizes differ: image {text(image.shape)}, label {text(label.shape)}")
    if not np.isfinite(image).all():
        raise UnusableError(file.name, NOT_FINITE)
    if image.min() < 0 or image.max() > 1:
        raise UnusableError(file.name, "its image goes beyond 0..1; expected TransUNet's form, (HU + 125) / 400")
    return image, label
