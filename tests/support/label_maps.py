"""Write folders of label maps as nnU-Net does, without nnU-Net."""

import json

import numpy as np
import SimpleITK as sitk  # noqa: N813
from PIL import Image

LABELS = {"background": 0, "liver": 1, "spleen": 2}


def write_label_map(path, array, spacing=None):
    """Write a label map with the given spacing along the axes of the array, which ITK has in reverse order."""
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
    """Write the folders of predictions and references, and dataset.json beside them.

    Args:
        root: the folder for all of them.
        cases: (prediction, reference) by case name; None writes no file.
        spacing: spacing along the axes of the arrays.
        labels, ending, others: entries of dataset.json.
    """
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
    """A label map that is 0 except for one voxel."""
    array = np.zeros(shape, np.uint8)
    array[at] = value
    return array


def truncate(path):
    """Truncate a file to its first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
