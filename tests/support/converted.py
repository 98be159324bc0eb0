"""Read converted datasets, where possible with libraries that did not write them."""

import json
from pathlib import Path

import nibabel
import numpy as np
from skimage import io


def read_array(path: Path) -> np.ndarray:
    """An image or a label map; volumes have NumPy's order of axes (z, y, x)."""
    return io.imread(path) if path.suffix == ".png" else np.asarray(nibabel.load(path).dataobj).T


def case_names(folder: Path) -> set[str]:
    """The case identifiers in a folder of images or label maps."""
    names = {path.name.split(".")[0] for path in folder.glob("*")}
    return {name.removesuffix("_0000") for name in names} if folder.name.startswith("images") else names


def read_manifest(dataset: Path) -> dict:
    """The content of manifest.json."""
    return json.loads((dataset / "manifest.json").read_text())


def records(dataset: Path) -> dict[str, dict]:
    """The records of the manifest by case."""
    return {record["case"]: record for record in read_manifest(dataset)["cases"]}


def cases_by_split(dataset: Path) -> dict[str, set[str]]:
    """The case identifiers by split, as nnU-Net will see them."""
    test, training = case_names(dataset / "imagesTs"), case_names(dataset / "imagesTr")
    file = dataset / "splits_final.json"
    (fold,) = json.loads(file.read_text()) if file.exists() else [{"train": training, "val": []}]
    assert set(fold["train"]) | set(fold["val"]) == training
    return {"train": set(fold["train"]), "val": set(fold["val"]), "test": test}
