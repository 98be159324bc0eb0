"""The demo's data set from a folder of the Medical Segmentation Decathlon, which nnU-Net's command converts."""

import json
import re
import shutil
from pathlib import Path

from ..utils.errors import UserError

MAX_TEST_CASES = 12
MIN_TRAINING_CASES = 7  # one in five is held out, and nnU-Net's five folds need five of the others


def check(source: Path) -> None:
    """Raise a UserError unless `source` is a Decathlon folder as nnU-Net's converter expects it."""
    for entry in ("dataset.json", "imagesTr", "labelsTr", "imagesTs"):
        if not (source / entry).exists():
            raise UserError(f"--data must name a Decathlon folder (Task<NN>_<Name>), but {source} has no {entry}")
    name = source.resolve().name
    if not re.fullmatch(r"Task\d+_[^_]+", name):
        raise UserError(f"--data must name a Decathlon folder (Task<NN>_<Name>), but its name is {name}")
    training = len(_images(source / "labelsTr"))
    if training < MIN_TRAINING_CASES:
        raise UserError(f"--data must have at least {MIN_TRAINING_CASES} training cases, but {name} has {training}")


def _images(folder: Path) -> list[Path]:
    """The files of a folder in alphabetical order, without the hidden files that macOS adds to archives."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def hold_out(source: Path, dataset: Path) -> list[str]:
    """Choose at most 12 test cases and write their references into the folder labelsTs of the dataset.

    These are the published test cases if the source has their labels. Otherwise the last training cases are moved from
    the training set to the test set. Test images without a reference are deleted.

    Args:
        source: the Decathlon folder. It is not changed.
        dataset: the converted nnU-Net dataset.

    Returns:
        The names of the test cases in alphabetical order.
    """
    description = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
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
