"""Two nnU-Net folders of label maps: which files belong together, and the scores of each pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from ..utils.files import read_json
from ..utils.nifti import check_complete
from .metrics import compare
from .protocols import PROTOCOLS, Scores


@dataclass(frozen=True)
class Labels:
    """What a dataset.json says of its label maps.

    Attributes:
        regions: label values by name, without the background; nnU-Net's regions have several.
        known: every value that may occur.
        ignore: the value where nothing is compared, or None.
        ending: the ending of the files.
        reader: nnU-Net's reader by name where dataset.json overwrites it, or None.
    """

    regions: dict[str, tuple[int, ...]]
    known: frozenset[int]
    ignore: int | None
    ending: str
    reader: str | None = None

    @property
    def has_spacing(self) -> bool:
        """Whether distances are in mm; what nnU-Net reads as natural images has voxels only."""
        natural = self.reader == "NaturalImage2DIO" or (not self.reader and self.ending in (".png", ".bmp", ".tif"))
        return not natural


def read_labels(path: Path) -> Labels:
    """The labels of a dataset.json.

    Raises:
        UserError: if it is not one.
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
    known = frozenset(v for region in values.values() for v in region) | {0, ignore} - {None}
    regions = {name: region for name, region in values.items() if region != (0,)}
    if not regions:
        raise UserError(f"{path} has no label but the background: name another with --dataset-json")
    return Labels(regions, known, ignore, ending, dataset.get("overwrite_image_reader_writer"))


def check_folders(predictions: Path, references: Path) -> None:
    """Raise a UserError unless both are folders."""
    for folder, title in ((predictions, "predictions"), (references, "references")):
        if not folder.is_dir():
            raise UserError(f"the {title} must be a folder, {folder} is none")


def find_dataset_json(predictions: Path, references: Path) -> Path:
    """The dataset.json of a pair of folders: beside the predictions, the references, or above these.

    Raises:
        UserError: if there is none.
    """
    for folder in (predictions, references, references.parent):
        if (folder / "dataset.json").is_file():
            return folder / "dataset.json"
    places = f"{predictions}, {references} or above {references}"
    raise UserError(f"no dataset.json in {places}: name it with --dataset-json")


def pair(predictions: Path, references: Path, ending: str) -> tuple[list[str], list[str]]:
    """The cases that both folders have, and what is wrong with the others.

    Raises:
        UserError: if a folder holds no such file.
    """
    names = {}
    for folder, title in ((predictions, "predictions"), (references, "references")):
        files = [f.name for f in folder.iterdir() if f.name.endswith(ending) and not f.name.startswith(".")]
        if not files:
            raise UserError(f"no *{ending} in {folder}: expected the {title} under nnU-Net's names, CASE{ending}")
        names[title] = {name.removesuffix(ending) for name in files}
    predicted, referenced = names["predictions"], names["references"]
    if not predicted & referenced:
        some = [", ".join(sorted(cases)[:3]) for cases in (predicted, referenced)]
        raise UserError(f"no case is in both folders: {predictions} has {some[0]} ..., {references} {some[1]} ...")
    unpaired = [f"{case}: a reference without a prediction" for case in sorted(referenced - predicted)]
    unpaired += [f"{case}: a prediction without a reference" for case in sorted(predicted - referenced)]
    return sorted(predicted & referenced), unpaired


@dataclass(frozen=True)
class Evaluation:
    """What is done with every pair: `evaluation(case)` gives its scores by region, or a text that says what is wrong.

    Attributes:
        predictions, references: the folders.
        labels: of both.
        regions: label values by name; `labels.regions` and any that the user adds.
        protocol: a name in `PROTOCOLS`.
        tolerance: of the surface Dice, mm.
    """

    predictions: Path
    references: Path
    labels: Labels
    regions: dict[str, tuple[int, ...]]
    protocol: str
    tolerance: float

    def __call__(self, case: str) -> dict[str, Scores] | str:
        try:
            (prediction, predicted), (reference, referenced) = (
                self._read(folder / f"{case}{self.labels.ending}") for folder in (self.predictions, self.references)
            )
        except _UnusableError as error:
            return f"{case}: {error}"
        if prediction.shape != reference.shape:
            sizes = f"{_size(prediction.shape)} predicted, {_size(reference.shape)} in the reference"
            return f"{case}: sizes differ (z, y, x): {sizes}"
        if not np.allclose(predicted["spacing"], referenced["spacing"], rtol=_SAME_PLACE):
            spacings = [" x ".join(f"{s:.4g}" for s in p["spacing"]) for p in (predicted, referenced)]
            return f"{case}: spacings differ (z, y, x): {spacings[0]} predicted, {spacings[1]} mm in the reference"
        for key in ("origin", "direction"):
            places = [p.get("sitk_stuff", {}).get(key, 0) for p in (predicted, referenced)]
            if not np.allclose(*places, rtol=_SAME_PLACE, atol=_SAME_PLACE):
                return f"{case}: prediction and reference do not lie in one place: their {key}s differ"
        spacing, protocol = referenced["spacing"], PROTOCOLS[self.protocol]
        return compare(prediction, reference, self.regions, spacing, protocol, self.tolerance, self.labels.ignore)

    def _read(self, path: Path) -> tuple[np.ndarray, dict]:
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json as reader_for

        description = {"file_ending": self.labels.ending}
        if self.labels.reader:
            description["overwrite_image_reader_writer"] = self.labels.reader
        try:
            check_complete(path)
            array, properties = reader_for(description, verbose=False)().read_seg(str(path))
        except Exception as error:  # whatever the reader's library raises
            raise _UnusableError(f"{path} cannot be read ({_last_line(error)})") from None
        if array.shape[0] != 1:
            raise _UnusableError(f"{path} has {array.shape[0]} channels, a label map has one")
        unknown = np.unique(array[0][~np.isin(array[0], list(self.labels.known))])
        if len(unknown):
            known = ", ".join(map(str, sorted(self.labels.known)))
            some = ", ".join(f"{v:g}" for v in unknown[:5])
            raise _UnusableError(f"{path} has the values {some}; dataset.json knows {known}")
        return array[0].astype(np.int32), properties


_SAME_PLACE = 1e-3
"""mm, of the direction's cosines, and relative: what rounding in headers makes."""


class _UnusableError(Exception):
    """A file that cannot be compared."""


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
