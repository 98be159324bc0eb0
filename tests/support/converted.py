"""What a converted dataset holds, read by libraries that did not write it where there are such."""

import json
from pathlib import Path

import nibabel
import numpy as np
from skimage import io


def content(path: Path) -> np.ndarray:
    """A written image or label map, the axes of volumes in NumPy's order (z, y, x)."""
    return io.imread(path) if path.suffix == ".png" else np.asarray(nibabel.load(path).dataobj).T


def cases(folder: Path) -> set[str]:
    """The identifiers in a folder of images or labels."""
    names = {path.name.split(".")[0] for path in folder.glob("*")}
    return {name.removesuffix("_0000") for name in names} if folder.name.startswith("images") else names


def manifest(dataset: Path) -> dict:
    """Records of the manifest by case."""
    return {record["case"]: record for record in json.loads((dataset / "manifest.json").read_text())["cases"]}


def split(dataset: Path) -> dict[str, set[str]]:
    """Cases by split, as nnU-Net will see them."""
    test, training = cases(dataset / "imagesTs"), cases(dataset / "imagesTr")
    file = dataset / "splits_final.json"
    (fold,) = json.loads(file.read_text()) if file.exists() else [{"train": training, "val": []}]
    assert set(fold["train"]) | set(fold["val"]) == training
    return {"train": set(fold["train"]), "val": set(fold["val"]), "test": test}
