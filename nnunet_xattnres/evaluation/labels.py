"""The labels and the file format that a dataset.json describes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from ..utils.files import read_json


@dataclass(frozen=True)
class Labels:
    """The labels and the file format that a dataset.json describes.

    Attributes:
        regions: label values by name, without the background. A region of nnU-Net's has several values.
        known: every value that may occur in a label map.
        ignore: the value of voxels that are not compared, or None.
        ending: the file name ending of the label maps, such as ".nii.gz".
        reader: the name of nnU-Net's reader class if dataset.json sets one, or None.
    """

    regions: dict[str, tuple[int, ...]]
    known: frozenset[int]
    ignore: int | None
    ending: str
    reader: str | None = None

    def file_format(self) -> dict[str, str]:
        """The entries of dataset.json by which nnU-Net chooses a reader."""
        reader = {"overwrite_image_reader_writer": self.reader} if self.reader else {}
        return {"file_ending": self.ending, **reader}


def read_labels(path: Path) -> Labels:
    """Read the labels of a dataset.json.

    Raises:
        UserError: if the file is not a dataset.json of nnU-Net v2, or has no label besides the background.
    """
    dataset = read_json(path, "nnU-Net's dataset.json")
    _check_version(dataset, path)
    for name, kind in (("file_ending", str), ("labels", dict)):
        if not isinstance(dataset.get(name), kind):
            got = repr(dataset[name]) if name in dataset else "none"
            raise UserError(f"{path} is no dataset.json of nnU-Net v2: expected a {kind.__name__} {name}, got {got}")
    values = {name: _label_values(name, value, path) for name, value in dataset["labels"].items()}
    ignore = values.pop("ignore", (None,))[0]
    known = {v for region in values.values() for v in region} | {0}
    if ignore is not None:
        known.add(ignore)
    regions = {name: region for name, region in values.items() if region != (0,)}
    if not regions:
        raise UserError(f"{path} has no label besides the background: fix it")
    reader = dataset.get("overwrite_image_reader_writer")
    if not isinstance(reader, str | None):
        raise UserError(f"{path} has the overwrite_image_reader_writer {reader!r}, expected the name of a reader")
    return Labels(regions, frozenset(known), ignore, dataset["file_ending"], reader)


def _label_values(name: str, value: Any, path: Path) -> tuple[int, ...]:
    """The values of a label or region: whole numbers from 0 on, also as text."""
    entries = value if isinstance(value, list) else [value]
    try:
        values = tuple(int(entry) for entry in entries)
        valid = all(isinstance(e, str) or v == e for e, v in zip(entries, values, strict=True)) and min(values) >= 0
    except (TypeError, ValueError):
        valid = False
    if not valid or any(isinstance(entry, bool) for entry in entries):
        raise UserError(
            f"{path} has the label {name} {value!r}, expected a whole number from 0 on, or several in a list"
        )
    return values


def _check_version(dataset: dict[str, Any], path: Path) -> None:
    """Raise a UserError that says how to convert a dataset.json of nnU-Net v1, which has names by label values."""
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not labels or not all(_is_label(value) for value in labels):
        return
    if not all(isinstance(name, str) and not _is_label(name) for name in labels.values()):
        return
    if "file_ending" not in dataset:
        command = f"nnUNetv2_convert_old_nnUNet_dataset {path.resolve().parent} DatasetNNN_NAME"
        raise UserError(f"{path} is nnU-Net v1's form of dataset.json: convert the dataset with `{command}`")
    pairs = ", ".join(f'"{name}": {int(value)}' for value, name in labels.items())
    raise UserError(f'{path} has the labels in reverse, names by values: write "labels": {{{pairs}}}')


def _is_label(text: str) -> bool:
    return text.strip().isdecimal()


def find_dataset_json(predictions: Path, references: Path) -> Path:
    """Find the dataset.json of two folders: in the predictions, in the references, or in the parent of the references.

    Raises:
        UserError: if there is none.
    """
    for folder in (predictions, references, references.parent):
        if (folder / "dataset.json").is_file():
            return folder / "dataset.json"
    raise UserError(f"no dataset.json in {predictions}, {references} or {references.parent}: pass --dataset-json")


def find_plans(predictions: Path) -> dict[str, Any] | None:
    """Read the plans.json that nnU-Net stores beside predictions, or in the folder of the model; None without one.

    Raises:
        UserError: if it cannot be read.
    """
    model = predictions.resolve().parents[1:2] if predictions.resolve().parent.name.startswith("fold_") else ()
    for folder in (predictions, *model):
        if (folder / "plans.json").is_file():
            return read_json(folder / "plans.json", "nnU-Net's plans")
    return None
