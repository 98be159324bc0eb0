"""TransUNet's preprocessed Synapse: arrays without a geometry, with intensities from 0 to 1."""

import io
from dataclasses import dataclass

import numpy as np

from ..utils.errors import first_line
from ..utils.tables import format_size
from .case import CaseData, SourceCase
from .formats import CT_WINDOW
from .labels import LabelMap, count_labels
from .problems import ProblemCode, UnusableError
from .sources import SourceFile
from .volume_files import NOT_FINITE, Volume
from .volumes import NiftiWriter

_INTEGER_TOLERANCE = 1e-3  # HU


@dataclass(frozen=True)
class ArrayReader(NiftiWriter):
    """Reads TransUNet's arrays (one slice per .npz file, or one volume per .h5 file) and restores HU.

    Attributes:
        mask_labels: the meaning of the values of `label`.
        spacing: voxel spacing (x, y, z) in mm, which the files do not hold.
    """

    mask_labels: LabelMap
    spacing: tuple[float, float, float]

    def read(self, case: SourceCase) -> CaseData:
        import SimpleITK as sitk  # noqa: N813

        name = case.image[0].name
        images: list[np.ndarray] = []
        label_maps: list[np.ndarray] = []
        changes = [f"intensities 0 to 1 mapped to {list(CT_WINDOW)} HU", f"spacing set to {list(self.spacing)} mm"]
        for file in case.image:
            image, values = read_arrays(file)
            if images and image.shape != images[0].shape:
                text = f"the slice has {format_size(image.shape)} pixels, {name} has {format_size(images[0].shape)}"
                raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, text)
            labels, mask_changes = self.mask_labels.apply(values, file.name)
            images.append(image)
            label_maps.append(labels)
            changes += [change for change in mask_changes if change not in changes]
        image, labels = (np.stack(arrays) if len(arrays) > 1 else arrays[0] for arrays in (images, label_maps))
        if image.ndim != 3:
            text = f"the array has the shape {format_size(image.shape)}, expected a volume or several slices"
            raise UnusableError(name, ProblemCode.DIMENSIONS, text)
        hu = image * np.float32(CT_WINDOW[1] - CT_WINDOW[0]) + np.float32(CT_WINDOW[0])
        rounded = np.rint(hu)
        hu = rounded.astype(np.int16) if np.abs(hu - rounded).max() < _INTEGER_TOLERANCE else hu
        volume, label_map = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(labels)
        for written in (volume, label_map):
            written.SetSpacing(self.spacing)
        return CaseData(Volume(volume), Volume(label_map), changes, count_labels(labels))


def read_arrays(file: SourceFile) -> tuple[np.ndarray, np.ndarray]:
    """Read `image` and `label` of a .npz or .h5 file.

    Raises:
        UnusableError: if they cannot be read, differ in shape, or if the image has values outside 0 to 1.
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
    except Exception as error:  # zipfile, zlib, NumPy and HDF5 raise different exceptions
        text = f"the arrays `image` and `label` cannot be read ({first_line(error)}); copy or download the file again"
        raise UnusableError(file.name, ProblemCode.DAMAGED, text) from None
    if image.shape != label.shape:
        text = f"`image` has the shape {format_size(image.shape)}, `label` {format_size(label.shape)}"
        raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, text)
    if not np.isfinite(image).all():
        raise UnusableError(file.name, ProblemCode.NOT_FINITE, NOT_FINITE)
    if image.min() < 0 or image.max() > 1:
        text = f"the image has values from {image.min():g} to {image.max():g}"
        expected = "expected 0 to 1, which is TransUNet's (HU + 125) / 400"
        raise UnusableError(file.name, ProblemCode.VALUE_RANGE, f"{text}, {expected}")
    return image, label
