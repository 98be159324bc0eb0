"""ISIC 2017: dermoscopic photographs in the official folders, which define the split."""

import argparse
import re
from collections.abc import Sequence

from ...utils.errors import UserError
from ..case import SourceCase
from ..plan import FilesByCase, Plan, pair
from ..problems import SOURCE, Problem, ProblemCode
from ..sources import SourceFile
from .layout import Layout

_OFFICIAL_COUNTS = {"train": 2000, "val": 150, "test": 600}
_SPLIT_FOLDER = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|idation)?(?![a-z])", re.IGNORECASE)
_IMAGE = re.compile(r"ISIC_\d{7}")
_MASK_SUFFIX = "_segmentation"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the layout has no options of its own."""


def make_plan(files: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """Make the plan of a source with this layout; see `Layout`."""
    from ..images import CHANNEL_NAMES, ImageReader
    from ..labels import BinaryMask

    problems, notes = list(problems), []
    images = FilesByCase(f for f in files if f.ending in (".jpg", ".jpeg") and _IMAGE.fullmatch(f.stem))
    masks = FilesByCase((f for f in files if f.ending == ".png" and _is_mask(f)), _case_of_mask)
    num_superpixels = sum(f.stem.endswith("_superpixels") for f in files)
    if num_superpixels:
        notes.append(f"{num_superpixels} superpixel files are ignored")
    if not images and any(file.ending == ".zip" for file in files):
        raise UserError("the source holds zip archives: name them, as in `xattnres convert isic2017 FOLDER/*.zip`")
    if not images:
        raise UserError("no ISIC_*.jpg in the source: expected the official folders, such as ISIC-2017_Training_Data")
    splits = {name: split for name, file in images.items() if (split := _find_split(file))}
    for name in images.keys() - splits.keys():
        text = "the image is in no folder named Training, Validation or Test"
        problems.append(Problem(images[name].name, ProblemCode.NO_SPLIT, text))
    cases = []
    for split, official_count in _OFFICIAL_COUNTS.items():
        names = [name for name in sorted(splits) if splits[name] == split]
        if len(names) != official_count:
            notes.append(f"{split}: {len(names)} of the {official_count} official images")
        if names and not masks.keys() & set(names):
            unlabelled = [images.pop(name) for name in names]
            if split == "test":
                notes.append("the test images have no masks and are converted without labels")
                cases += [SourceCase(file.stem, split, (file,)) for file in unlabelled]
            else:
                folder = unlabelled[0].folders[-1] if unlabelled[0].folders else SOURCE
                text = f"none of the {len(names)} {split} images has a mask; download its Part1_GroundTruth"
                problems.append(Problem(folder, ProblemCode.MASK_MISSING, text))
    names, unpaired = pair(images, masks)
    problems += unpaired
    cases += [SourceCase(name, splits[name], (images[name],), (masks[name],)) for name in names if name in splits]
    lesion = BinaryMask("lesion", arguments.threshold)
    return Plan(
        title="ISIC 2017", name="ISIC2017", cases=sorted(cases, key=lambda case: case.name),
        reader=ImageReader(lesion, 3, arguments.size, arguments.resize_masks, arguments.palette), labels=lesion.labels,
        channel_names=CHANNEL_NAMES[3], split="the official folders", problems=problems, notes=notes,
    )  # fmt: skip


def _is_mask(file: SourceFile) -> bool:
    return file.stem.endswith(_MASK_SUFFIX) and bool(_IMAGE.fullmatch(_case_of_mask(file)))


def _case_of_mask(file: SourceFile) -> str:
    return file.stem.removesuffix(_MASK_SUFFIX)


def _find_split(file: SourceFile) -> str | None:
    """The split that the innermost folder with such a name belongs to; the name of the archive counts as well."""
    for folder in (*reversed(file.folders), file.path.stem if file.member else ""):
        if match := _SPLIT_FOLDER.search(folder):
            return match[1].lower()
    return None


LAYOUT = Layout(
    summary="ISIC 2017, part 1: the official folders or zip archives",
    description="""\
Convert part 1 (lesion segmentation) of ISIC 2017.

The source is the official downloads, as folders or as zip archives: ISIC-2017_Training_Data with ISIC_*.jpg,
ISIC-2017_Training_Part1_GroundTruth with ISIC_*_segmentation.png, and the same for Validation and Test_v2. The names of
the folders or archives define the split: 2000 training, 150 validation and 600 test images. Superpixel files are
ignored. Test images without masks are converted without labels.

example: xattnres convert isic2017 ISIC-2017_*.zip --dataset-id 504 --size 352
""",
    configure=configure,
    make_plan=make_plan,
)
