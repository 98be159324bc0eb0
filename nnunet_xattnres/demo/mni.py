"""The demo's data set of slices of the MNI152 brain template, which the package nilearn includes."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.errors import UserError

LICENCE = (
    "ICBM 152 nonlinear atlas (2009a), Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal "
    "Neurological Institute, McGill University; free to use, copy, modify and distribute for any purpose without fee "
    "while this notice is kept."
)
LABELS = {"background": 0, "grey matter": 1, "white matter": 2}
_SLICES = range(36, 140, 2)  # axial slices with brain tissue, in mm from the lower end of the template
_HELD_OUT = 5  # every fifth slice is held out
_CROP = (slice(18, 178), slice(20, 212))  # the bounding box of the brain and a margin


def check() -> None:
    """Raise a UserError unless the packages that include and read the images are installed."""
    for package in ("matplotlib", "nibabel", "nilearn", "skimage"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the demo needs the package {package}: pip install '.[demo]' in the checkout")


def load() -> tuple[np.ndarray, np.ndarray]:
    """Load the template.

    Returns:
        The T1 intensities and the labels (0 background, 1 grey matter, 2 white matter), both (197, 233, 189) at 1 mm.
    """
    import nibabel
    from nilearn.datasets import struct

    files = (struct.MNI152_FILE_PATH, struct.GM_MNI152_FILE_PATH, struct.WM_MNI152_FILE_PATH)
    volumes: list[Any] = [nibabel.load(file) for file in files]
    t1, grey, white = (np.asarray(volume.dataobj) for volume in volumes)
    # grey and white are probabilities times 255; brain tissue has a sum of more than one half
    tissue = grey.astype(np.int16) + white > 127
    labels = np.where(grey > white, 1, 2) * tissue
    return t1, labels.astype(np.uint8)


def convert(dataset: Path) -> list[str]:
    """Write the slices as PNG into the folders of an nnU-Net dataset, and return the names of the test cases."""
    from skimage.io import imsave

    t1, labels = load()
    held_out = []
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (dataset / folder).mkdir(parents=True)
    for n, z in enumerate(_SLICES):
        test = n % _HELD_OUT == _HELD_OUT // 2
        case = f"slice_{z:03d}"
        # rows run from the front of the head to the back, as in radiology
        image, label = (np.rot90(volume[_CROP][:, :, z]) for volume in (t1, labels))
        imsave(dataset / ("imagesTs" if test else "imagesTr") / f"{case}_0000.png", image, check_contrast=False)
        imsave(dataset / ("labelsTs" if test else "labelsTr") / f"{case}.png", label, check_contrast=False)
        if test:
            held_out.append(case)
    description = {
        "channel_names": {"0": "T1"},
        "labels": LABELS,
        "numTraining": len(_SLICES) - len(held_out),
        "file_ending": ".png",
        "licence": LICENCE,
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=2))
    return held_out
