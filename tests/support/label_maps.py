"""Folders of label maps as nnU-Net has them, written without nnU-Net."""

import json

import numpy as np
import SimpleITK as sitk  # noqa: N813
from PIL import Image

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def write_label_map(path, array, spacing=None):
    """`spacing` is along the axes of the array; ITK has them the other way round."""
    if path.name.endswith(".png"):
        Image.fromarray(np.asarray(array, np.uint8)).save(path)
        return path
    array = np.asarray(array)
    image = sitk.GetImageFromArray(array.astype(array.dtype if array.dtype.kind == "f" else np.uint8))
    image.SetSpacing([float(s) for s in reversed(spacing or [1] * array.ndim)])
    sitk.WriteImage(image, str(path))
    return path


def write_dataset_json(folder, labels=LABELS, ending=".nii.gz", **others):
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ending, **others}
    path = folder / "dataset.json"
    path.write_text(json.dumps(description))
    return path


def write_folders(root, cases, spacing=None, labels=LABELS, ending=".nii.gz", **others):
    """The two folders of `cases`, name -> (prediction, reference), None for no file; dataset.json lies above both."""
    folders = root / "predictions", root / "labelsTs"
    for folder in folders:
        folder.mkdir(parents=True)
    for name, pair in cases.items():
        for folder, array in zip(folders, pair, strict=True):
            if array is not None:
                write_label_map(folder / f"{name}{ending}", array, spacing)
    write_dataset_json(root, labels, ending, **others)
    return folders


def voxel(shape, at, value=1):
    """Zeros but for one voxel."""
    array = np.zeros(shape, np.uint8)
    array[at] = value
    return array


def damage(path):
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
