"""A small Decathlon folder of real Hippocampus cases, or of synthetic ones where the data set is not available."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

_REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = Path(os.environ.get("XATTNRES_TEST_DATA", _REPOSITORY.parent / "shared" / "data")) / "Task04_Hippocampus"
TRAINING, TEST = 10, 2


def decathlon_folder(root: Path) -> Path:
    """Make the folder `root`/Task04_Hippocampus with 10 training and 2 test cases, and return its path."""
    task = root / "Task04_Hippocampus"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (task / folder).mkdir(parents=True)
    (_copy if SOURCE.is_dir() else _generate)(task)
    training = sorted(p.name for p in (task / "imagesTr").iterdir())
    description = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": TRAINING,
        "numTest": TEST,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in training],
        "test": [f"./imagesTs/{p.name}" for p in sorted((task / "imagesTs").iterdir())],
    }
    (task / "dataset.json").write_text(json.dumps(description))
    return task


def _copy(task: Path) -> None:
    for image in sorted((SOURCE / "imagesTr").glob("h*.nii.gz"))[:TRAINING]:
        shutil.copyfile(image, task / "imagesTr" / image.name)
        shutil.copyfile(SOURCE / "labelsTr" / image.name, task / "labelsTr" / image.name)
    for image in sorted((SOURCE / "imagesTs").glob("h*.nii.gz"))[:TEST]:
        shutil.copyfile(image, task / "imagesTs" / image.name)


def _generate(task: Path) -> None:
    """Noisy volumes of about 35x50x36 voxels with an ellipsoid in two halves."""
    rng = np.random.default_rng(0)
    for n in range(TRAINING + TEST):
        shape = np.array([36, 50, 35]) + rng.integers(-3, 4, 3)
        grid = np.indices(shape).reshape(3, -1).T / shape - 0.5 + rng.uniform(-0.05, 0.05, 3)
        inside = ((grid / (0.25, 0.38, 0.22)) ** 2).sum(1).reshape(shape) < 1
        label = (inside * np.where(np.arange(shape[1]) < shape[1] // 2, 1, 2)[None, :, None]).astype(np.uint8)
        image = (rng.normal(100, 20, shape) + 60 * label).astype(np.float32)
        training = n < TRAINING
        name = f"hippocampus_{n:03d}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(image), task / ("imagesTr" if training else "imagesTs") / name)
        if training:
            sitk.WriteImage(sitk.GetImageFromArray(label), task / "labelsTr" / name)
