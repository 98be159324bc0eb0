"""A Medical Segmentation Decathlon folder as the demo's data set, converted by nnU-Net's own command."""

import json
import re
import shutil
from pathlib import Path

from ..utils.errors import UserError

MAX_TEST_CASES = 12
MIN_TRAINING_CASES = 7  # five folds need five after one in five is held out


def check(source: Path) -> None:
    """Raise a UserError unless `source` is a Decathlon task, as nnU-Net's converter wants it."""
    for entry in ("dataset.json", "imagesTr", "labelsTr", "imagesTs"):
        if not (source / entry).exists():
            raise UserError(f"--data must be a Decathlon folder (Task<NN>_<Name>), but {source} has no {entry}")
    name = source.resolve().name
    if not re.fullmatch(r"Task\d+_[^_]+", name):
        raise UserError(f"--data must be a Decathlon folder named Task<NN>_<Name>, got {name}")
    training = len(_images(source / "labelsTr"))
    if training < MIN_TRAINING_CASES:
        raise UserError(f"--data must have at least {MIN_TRAINING_CASES} training cases, {name} has {training}")


def _images(folder: Path) -> list[Path]:
    """The files of a folder in order, without those that macOS leaves in archives."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def hold_out(source: Path, dataset: Path) -> list[str]:
    """Choose the test cases and put their references into `dataset`/labelsTs; returns the cases.

    The published test cases where the source has their labels, else the last training cases, which then leave
    the training set. At most 12, in alphabetical order.
    """
    description = json.loads((dataset / "dataset.json").read_text())
    ending = description["file_ending"]
    (dataset / "labelsTs").mkdir()
    images = dataset / "imagesTs"
    labelled = _images(source / "labelsTs") if (source / "labelsTs").is_dir() else []
    labelled = [p for p in labelled if any(images.glob(f"{_case(p, ending)}_*{ending}"))]
    if labelled:
        for path in labelled[:MAX_TEST_CASES]:
            shutil.copyfile(path, dataset / "labelsTs" / path.name)
    else:
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir()
        training = sorted((dataset / "labelsTr").glob(f"*{ending}"))
        labelled = training[-min(MAX_TEST_CASES, len(training) // 5) :]
        for path in labelled:
            path.rename(dataset / "labelsTs" / path.name)
            for image in (dataset / "imagesTr").glob(f"{_case(path, ending)}_*{ending}"):
                image.rename(images / image.name)
        description["numTraining"] = len(training) - len(labelled)
        (dataset / "dataset.json").write_text(json.dumps(description, indent=2))
    cases = [_case(p, ending) for p in labelled[:MAX_TEST_CASES]]
    for image in images.iterdir():
        if image.name.removesuffix(ending).rpartition("_")[0] not in cases:
            image.unlink()
    return cases


def _case(path: Path, ending: str) -> str:
    return path.name.removesuffix(ending)
