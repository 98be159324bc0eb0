"""CVC-ColonDB and CVC-ClinicDB: numbered colonoscopy frames in one folder, their masks in another."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from ...utils.errors import UserError
from ..case import Case
from ..images import CHANNEL_NAMES, ENDINGS, PictureReader
from ..labels import BinaryMask
from ..plan import FilesByCase, Plan, pair
from ..problems import Problem
from ..sources import File
from ..splits import PAPER_RATIO, by_ratio, published
from . import pairs

_TOLD = 5


@dataclass(frozen=True)
class Polyps:
    """A polyp data set: its title, the name of its published list, and the layouts it is found in."""

    title: str
    list_name: str
    layouts: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--seed", type=int, default=0, help="of the 8:1:1 split of frames not on the list (default: %(default)s)"
        )

    def find(self, files: Sequence[File], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
        """The cases in the files of a source."""
        notes: list[str] = []
        pictures = _one_format([file for file in files if file.ending in ENDINGS], notes)
        images = FilesByCase(pairs.in_folders(pictures, pairs.IMAGE_FOLDERS), _number)
        masks = FilesByCase(pairs.in_folders(pictures, pairs.MASK_FOLDERS), _number)
        if not images and not masks:
            raise UserError(f"no folders of frames and masks in the source; expected {self.layouts}")
        names, unpaired = pair(images, masks)
        problems = [*problems, *unpaired]
        splits, split = self._split(names, arguments.seed, problems)
        cases = [Case(name, splits[name], (images[name],), (masks[name],)) for name in names]
        masks_read = BinaryMask("polyp", arguments.threshold)
        return Plan(
            title=self.title, name=self.title.removeprefix("CVC-"), cases=cases,
            reader=PictureReader(masks_read, 3, arguments.size, arguments.resize_masks),
            labels=masks_read.names, channel_names=CHANNEL_NAMES[3], split=split, problems=problems, notes=notes,
        )  # fmt: skip

    def _split(self, names: Sequence[str], seed: int, problems: list[Problem]) -> tuple[dict[str, str], str]:
        entries = published(self.list_name)
        splits = {name: entries[name].split for name in names if name in entries}
        if not splits:
            return by_ratio(names, PAPER_RATIO, seed), f"8:1:1 with seed {seed}, as no frame is on the published list"
        missing = sorted(entries.keys() - splits.keys(), key=int)
        if missing:
            some = ", ".join(missing[:_TOLD]) + (" ..." if len(missing) > _TOLD else "")
            text = f"{len(missing)} of the {len(entries)} frames on the published list are not there: {some}"
            problems.append(Problem("the source", text))
        others = [name for name in names if name not in entries]
        rest = f", and 8:1:1 with seed {seed} for {len(others)} not on it" if others else ""
        return splits | by_ratio(others, PAPER_RATIO, seed), f"the published list{rest}"


def _number(file: File) -> str:
    """The frame's number as on the lists, without leading zeros."""
    return str(int(file.stem)) if file.stem.isdecimal() else file.stem


def _one_format(files: list[File], notes: list[str]) -> list[File]:
    """Of a download that has all frames as PNG and as TIF in folders of these names, the PNG."""
    as_png = [file for file in files if "png" in map(str.lower, file.folders)]
    as_tif = [file for file in files if {"tif", "tiff"} & set(map(str.lower, file.folders))]
    if not (as_png and as_tif):
        return files
    notes.append(f"the {len(as_tif)} files in TIF are left aside: PNG holds the same frames")
    return [file for file in files if file not in set(as_tif)]


COLONDB = Polyps("CVC-ColonDB", "colondb", "CVC-ColonDB/images/1.png and CVC-ColonDB/masks/1.png")
CLINICDB = Polyps("CVC-ClinicDB", "clinicdb", "Original/1.tif and 'Ground Truth/1.tif', or images/ and masks/")
