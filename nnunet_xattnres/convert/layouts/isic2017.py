"""ISIC 2017: dermoscopic photographs in the official folders, which are the split."""

import argparse
import re
from collections.abc import Sequence

from ...utils.errors import UserError
from ..case import Case
from ..images import CHANNEL_NAMES, PictureReader
from ..labels import BinaryMask
from ..plan import FilesByCase, Plan, pair
from ..problems import Problem
from ..sources import File

_OFFICIAL = {"train": 2000, "val": 150, "test": 600}
_FOLDER = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|idation)?(?![a-z])", re.IGNORECASE)
_IMAGE = re.compile(r"ISIC_\d{7}")
_MASK = re.compile(r"(ISIC_\d{7})_segmentation")


def configure(parser: argparse.ArgumentParser) -> None:
    pass


def find(files: Sequence[File], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """The cases in the files of a source."""
    problems, notes = list(problems), []
    image_files = [f for f in files if f.ending in (".jpg", ".jpeg") and _IMAGE.fullmatch(f.stem)]
    mask_files = [f for f in files if f.ending == ".png" and _MASK.fullmatch(f.stem)]
    superpixels = sum(f.stem.endswith("_superpixels") for f in files)
    if superpixels:
        notes.append(f"{superpixels} superpixel files are left aside")
    images = FilesByCase(image_files)
    masks = FilesByCase(mask_files, lambda file: _MASK.fullmatch(file.stem)[1])
    if not images and any(file.ending == ".zip" for file in files):
        raise UserError("the source holds zip archives: name these, as in isic2017 FOLDER/*.zip")
    if not images:
        raise UserError("no ISIC_*.jpg in the source; expected the official folders, such as ISIC-2017_Training_Data")
    splits = {name: split for name, file in images.items() if (split := _split(file))}
    homeless = images.keys() - splits.keys()
    problems += [
        Problem(images[n].name, "lies in no folder named after Training, Validation or Test") for n in homeless
    ]
    cases = []
    for split, official in _OFFICIAL.items():
        names = [name for name in sorted(splits) if splits[name] == split]
        if len(names) != official:
            notes.append(f"{split}: {len(names)} images of the official {official}")
        if names and not masks.keys() & set(names):
            unlabelled = [images.pop(name) for name in names]
            if split == "test":
                notes.append("the test images have no masks here: converted without labels")
                cases += [Case(file.stem, split, (file,)) for file in unlabelled]
            else:
                text = f"none of the {len(names)} {split} images has a mask: fetch its Part1_GroundTruth"
                problems.append(Problem(unlabelled[0].folders[-1] if unlabelled[0].folders else "the source", text))
    names, unpaired = pair(images, masks)
    problems += unpaired
    cases += [Case(name, splits[name], (images[name],), (masks[name],)) for name in names if name in splits]
    masks_read = BinaryMask("lesion", arguments.threshold)
    return Plan(
        title="ISIC 2017", name="ISIC2017", cases=sorted(cases, key=lambda case: case.name),
        reader=PictureReader(masks_read, 3, arguments.size, arguments.resize_masks),
        labels=masks_read.names, channel_names=CHANNEL_NAMES[3], split="the official folders",
        problems=problems, notes=notes,
    )  # fmt: skip


def _split(file: File) -> str | None:
    """The split that the nearest telling folder names; in an archive the archive's own name may be it."""
    for folder in (*reversed(file.folders), file.path.stem if file.member else ""):
        if match := _FOLDER.search(folder):
            return match[1].lower()
    return None
