"""Two folders of label maps under nnU-Net's names: which files belong together, and the scores of each pair."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import UserError
from .label_maps import check_same_geometry, read_label_map
from .labels import Labels
from .metrics import compare
from .problems import NotComparableError, ScoringProblem, ScoringProblemCode
from .protocols import PROTOCOLS, Scores

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def check_folders(predictions: Path, references: Path) -> None:
    """Raise a UserError unless both paths are folders."""
    for folder, title in ((predictions, "predictions"), (references, "references")):
        if not folder.is_dir():
            raise UserError(f"the {title} must be in a folder, but {folder} is not a folder")


def pair_cases(predictions: Path, references: Path, ending: str) -> tuple[list[str], list[ScoringProblem]]:
    """List the cases that both folders have, and a problem for every case that only one of them has.

    Args:
        predictions: the folder of the predicted label maps, named CASE + ending.
        references: the folder of the reference label maps, named likewise.
        ending: the file name ending, such as ".nii.gz".

    Raises:
        UserError: if a folder has no file with this ending, or the folders have no case in common.
    """
    names = {}
    for folder, title in ((predictions, "predictions"), (references, "references")):
        files = [f.name for f in folder.iterdir() if f.name.endswith(ending) and not f.name.startswith(".")]
        if not files:
            others = sorted({"".join(f.suffixes[-2:]) for f in folder.iterdir() if f.is_file()})
            text = f"no *{ending} in {folder}: expected {title} under nnU-Net's names, CASE{ending}"
            raise UserError(f"{text}, got files that end in {', '.join(others[:5])}" if others else text)
        names[title] = {name.removesuffix(ending) for name in files}
    predicted, referenced = names["predictions"], names["references"]
    if not predicted & referenced:
        first = [", ".join(sorted(cases)[:3]) for cases in (predicted, referenced)]
        text = f"the folders have no case in common: {predictions} has {first[0]} ..., {references} has {first[1]} ..."
        for folder, cases in ((predictions, predicted), (references, referenced)):
            if _are_images(cases):
                text += f"; {folder} has images, name the folder of label maps"
        raise UserError(text)
    problems = [
        ScoringProblem(ScoringProblemCode.MISSING_PREDICTION, case, "a reference without a prediction")
        for case in sorted(referenced - predicted)
    ]
    problems += [
        ScoringProblem(ScoringProblemCode.MISSING_REFERENCE, case, "a prediction without a reference")
        for case in sorted(predicted - referenced)
    ]
    return sorted(predicted & referenced), problems


def _are_images(names: Collection[str]) -> bool:
    """Whether all names end in the number of a channel, as nnU-Net's names of images do."""
    return all(re.search(r"_\d{4}$", name) for name in names)


@dataclass(frozen=True)
class ScoredCase:
    """The scores of a case.

    Attributes:
        scores: the scores by region.
        notes: what was replaced in the values or headers of its files, one line each, with the file.
    """

    scores: dict[str, Scores]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseEvaluator:
    """Compares one case at a time: `evaluator(case)` returns its scores, or the problem that prevents this.

    Worker processes receive a pickled copy.

    Attributes:
        predictions: the folder of the predicted label maps.
        references: the folder of the reference label maps.
        labels: the labels of both folders.
        reader: nnU-Net's reader for both folders, see `choose_reader`.
        regions: label values by name: `labels.regions`, and regions that the user adds.
        protocol: a name in `PROTOCOLS`.
        tolerance: tolerance of the surface Dice, in mm (in voxels where the protocol does not use the spacing).
    """

    predictions: Path
    references: Path
    labels: Labels
    reader: type["BaseReaderWriter"]
    regions: dict[str, tuple[int, ...]]
    protocol: str
    tolerance: float

    def __call__(self, case: str) -> ScoredCase | ScoringProblem:
        paths = [folder / f"{case}{self.labels.ending}" for folder in (self.predictions, self.references)]
        try:
            prediction, reference = (read_label_map(path, self.reader, self.labels) for path in paths)
            check_same_geometry(prediction, reference)
        except NotComparableError as error:
            return ScoringProblem(error.code, case, error.text)
        protocol, ignore = PROTOCOLS[self.protocol], self.labels.ignore
        scores = compare(
            prediction.values, reference.values, self.regions, reference.spacing, protocol, self.tolerance, ignore
        )
        notes = [
            f"{path}: {note}"
            for path, label_map in zip(paths, (prediction, reference), strict=True)
            for note in label_map.notes
        ]
        return ScoredCase(scores, tuple(notes))
