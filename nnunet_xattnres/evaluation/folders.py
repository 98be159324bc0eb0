"""Two folders of label maps under nnU-Net's names: which files belong together, and the scores of each pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from ..utils.files import read_json
from ..utils.nifti import check_nifti
from .metrics import compare
from .protocols import PROTOCOLS, Scores

_GEOMETRY_TOLERANCE = 1e-3
"""Spacings, origins (mm) and direction cosines that differ by no more than this are equal: headers are rounded."""


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

    @property
    def has_spacing(self) -> bool:
        """Whether the files have a spacing in mm. nnU-Net's natural images (PNG, BMP, 2-D TIF) have none."""
        natural = self.reader == "NaturalImage2DIO" or (not self.reader and self.ending in (".png", ".bmp", ".tif"))
        return not natural


class ScoringProblemCode(str, Enum):
    """The reason why a case cannot be compared."""

    MISSING_PREDICTION = "missing prediction"
    MISSING_REFERENCE = "missing reference"
    UNREADABLE = "unreadable"
    CHANNELS = "channels"
    UNKNOWN_VALUES = "unknown values"
    SHAPE = "shape"
    SPACING = "spacing"
    ORIGIN = "origin"
    DIRECTION = "direction"


@dataclass(frozen=True)
class ScoringProblem:
    """A case that cannot be compared.

    Attributes:
        code: the reason.
        case: the name of the case.
        text: one line for the user, with the file and the values concerned.
    """

    code: ScoringProblemCode
    case: str
    text: str

    def __str__(self) -> str:
        return f"{self.case}: {self.text}"


def read_labels(path: Path) -> Labels:
    """Read the labels of a dataset.json.

    Raises:
        UserError: if the file is not a dataset.json of nnU-Net, or has no label besides the background.
    """
    dataset = read_json(path, "nnU-Net's dataset.json")
    try:
        ending = dataset["file_ending"]
        ending.encode()
        values = {n: tuple(map(int, v if isinstance(v, list) else [v])) for n, v in dataset["labels"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{path} cannot be read as nnU-Net's dataset.json ({error!r}): name another with --dataset-json"
        raise UserError(message) from None
    ignore = values.pop("ignore", (None,))[0]
    known = {v for region in values.values() for v in region} | {0}
    if ignore is not None:
        known.add(ignore)
    regions = {name: region for name, region in values.items() if region != (0,)}
    if not regions:
        raise UserError(f"{path} has no label besides the background: name another with --dataset-json")
    return Labels(regions, frozenset(known), ignore, ending, dataset.get("overwrite_image_reader_writer"))


def check_folders(predictions: Path, references: Path) -> None:
    """Raise a UserError unless both paths are folders."""
    for folder, title in ((predictions, "predictions"), (references, "references")):
        if not folder.is_dir():
            raise UserError(f"the {title} must be in a folder, but {folder} is not a folder")


def find_dataset_json(predictions: Path, references: Path) -> Path:
    """Find the dataset.json of two folders: in the predictions, in the references, or in the parent of the references.

    Raises:
        UserError: if there is none.
    """
    for folder in (predictions, references, references.parent):
        if (folder / "dataset.json").is_file():
            return folder / "dataset.json"
    raise UserError(f"no dataset.json in {predictions}, {references} or {references.parent}: pass --dataset-json")


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
            raise UserError(f"no *{ending} in {folder}: expected {title} under nnU-Net's names, CASE{ending}")
        names[title] = {name.removesuffix(ending) for name in files}
    predicted, referenced = names["predictions"], names["references"]
    if not predicted & referenced:
        first = [", ".join(sorted(cases)[:3]) for cases in (predicted, referenced)]
        raise UserError(
            f"the folders have no case in common: {predictions} has {first[0]} ..., {references} has {first[1]} ..."
        )
    problems = [
        ScoringProblem(ScoringProblemCode.MISSING_PREDICTION, case, "a reference without a prediction")
        for case in sorted(referenced - predicted)
    ]
    problems += [
        ScoringProblem(ScoringProblemCode.MISSING_REFERENCE, case, "a prediction without a reference")
        for case in sorted(predicted - referenced)
    ]
    return sorted(predicted & referenced), problems


@dataclass(frozen=True)
class CaseEvaluator:
    """Compares one case at a time: `evaluator(case)` returns its scores by region, or the problem that prevents this.

    Worker processes receive a pickled copy.

    Attributes:
        predictions: the folder of the predicted label maps.
        references: the folder of the reference label maps.
        labels: the labels of both folders.
        regions: label values by name: `labels.regions`, and regions that the user adds.
        protocol: a name in `PROTOCOLS`.
        tolerance: tolerance of the surface Dice, in mm (in voxels where the protocol does not use the spacing).
    """

    predictions: Path
    references: Path
    labels: Labels
    regions: dict[str, tuple[int, ...]]
    protocol: str
    tolerance: float

    def __call__(self, case: str) -> dict[str, Scores] | ScoringProblem:
        try:
            (prediction, predicted), (reference, referenced) = (
                self._read(folder / f"{case}{self.labels.ending}") for folder in (self.predictions, self.references)
            )
            _check_same_geometry(prediction.shape, reference.shape, predicted, referenced)
        except _NotComparableError as error:
            return ScoringProblem(error.code, case, error.text)
        spacing, protocol = referenced["spacing"], PROTOCOLS[self.protocol]
        return compare(prediction, reference, self.regions, spacing, protocol, self.tolerance, self.labels.ignore)

    def _read(self, path: Path) -> tuple[np.ndarray, dict]:
        """The label map (z, y, x) and the header, as nnU-Net's reader returns them."""
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        description = {"file_ending": self.labels.ending}
        if self.labels.reader:
            description["overwrite_image_reader_writer"] = self.labels.reader
        try:
            check_nifti(path)
            reader = determine_reader_writer_from_dataset_json(description, verbose=False)()
            array, header = reader.read_seg(str(path))
        except Exception as error:  # the readers of different libraries raise different exceptions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise _NotComparableError(ScoringProblemCode.UNREADABLE, f"{path} cannot be read ({reason})") from None
        if array.shape[0] != 1:
            message = f"{path} has {array.shape[0]} channels, but a label map has one"
            raise _NotComparableError(ScoringProblemCode.CHANNELS, message)
        unknown = np.unique(array[0][~np.isin(array[0], list(self.labels.known))])
        if len(unknown):
            known = ", ".join(map(str, sorted(self.labels.known)))
            first = ", ".join(f"{v:g}" for v in unknown[:5])
            message = f"{path} has the values {first}, but dataset.json has {known}"
            raise _NotComparableError(ScoringProblemCode.UNKNOWN_VALUES, message)
        return array[0].astype(np.int32), header


def _check_same_geometry(
    predicted_shape: Sequence[int], reference_shape: Sequence[int], predicted: dict, referenced: dict
) -> None:
    """Raise unless two label maps have the same shape, and their headers the same spacing, origin and direction."""
    if predicted_shape != reference_shape:
        shapes = f"the prediction has {_format_shape(predicted_shape)}, the reference {_format_shape(reference_shape)}"
        raise _NotComparableError(ScoringProblemCode.SHAPE, f"the shapes differ (z, y, x): {shapes}")
    if not np.allclose(predicted["spacing"], referenced["spacing"], rtol=_GEOMETRY_TOLERANCE):
        spacings = [" x ".join(f"{s:.4g}" for s in header["spacing"]) for header in (predicted, referenced)]
        message = f"the spacings differ (z, y, x): the prediction has {spacings[0]} mm, the reference {spacings[1]} mm"
        raise _NotComparableError(ScoringProblemCode.SPACING, message)
    for key, code in (("origin", ScoringProblemCode.ORIGIN), ("direction", ScoringProblemCode.DIRECTION)):
        a, b = (header.get("sitk_stuff", {}).get(key, 0) for header in (predicted, referenced))
        if not np.allclose(a, b, rtol=_GEOMETRY_TOLERANCE, atol=_GEOMETRY_TOLERANCE):
            raise _NotComparableError(code, f"prediction and reference have different {key}s in their headers")


class _NotComparableError(Exception):
    """A file that cannot be compared."""

    def __init__(self, code: ScoringProblemCode, text: str):
        super().__init__(code, text)
        self.code, self.text = code, text


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
