"""CVC-ColonDB and CVC-ClinicDB: numbered colonoscopy frames in one folder, their masks in another."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...utils.errors import UserError
from ..case import SourceCase
from ..formats import IMAGE_ENDINGS
from ..plan import FilesByCase, Plan, pair
from ..problems import SOURCE, Problem, ProblemCode, shorten
from ..sources import SourceFile
from ..splits import PAPER_RATIO, SPLIT_NAMES, published_list, split_by_ratio
from .layout import Layout
from .patterns import Match, find_images_and_masks

_DESCRIPTION = """\
Convert {title}.

The source has numbered frames and their masks in two folders, {layouts}.
Frames on the published list get the split of that list. Other frames, or all if no frame is on the list, are split
8:1:1 at random with --seed.

example: xattnres convert {command} {title} --dataset-id 502
"""


def _make_layout(title: str, list_name: str, layouts: str) -> Layout:
    """The layout of a polyp data set.

    Args:
        title: its name.
        list_name: name of its published list.
        layouts: the folders of frames and masks, for messages.
    """

    def make_plan(files: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
        from ..images import CHANNEL_NAMES, ImageReader
        from ..labels import BinaryMask

        notes: list[str] = []
        usable = _ignore_tif_copies([file for file in files if file.ending in IMAGE_ENDINGS], notes)
        found = find_images_and_masks(usable)
        if not all(found):
            raise UserError(f"no folder of {'masks' if found[0] else 'frames'} in the source: expected {layouts}")
        _check_one_set(*found, title, arguments.source)
        images, masks = (FilesByCase((match.file for match in matches), _frame_number) for matches in found)
        names, unpaired = pair(images, masks)
        problems = [*problems, *unpaired]
        splits, split = _split(names, list_name, arguments.seed, problems)
        cases = [SourceCase(name, splits[name], (images[name],), (masks[name],)) for name in names]
        polyp = BinaryMask("polyp", arguments.threshold)
        reader = ImageReader(polyp, 3, arguments.size, arguments.resize_masks, arguments.palette)
        return Plan(
            title=title, name=title.removeprefix("CVC-"), cases=cases, reader=reader, labels=polyp.labels,
            channel_names=CHANNEL_NAMES[3], split=split, problems=problems, notes=notes,
        )  # fmt: skip

    description = _DESCRIPTION.format(title=title, layouts=layouts, command=list_name)
    return Layout(f"{title}: {layouts}", description, configure, make_plan)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this layout."""
    parser.add_argument(
        "--seed", type=int, default=0,
        help="seed of the random 8:1:1 split of frames that are not on the published list (default: %(default)s)",
    )  # fmt: skip


def _split(names: Sequence[str], list_name: str, seed: int, problems: list[Problem]) -> tuple[dict[str, str], str]:
    """The split of every frame, and its description; frames of the list that are missing are added to the problems."""
    listed = published_list(list_name)
    splits = {name: listed[name].split for name in names if name in listed}
    if not splits:
        description = f"8:1:1 with seed {seed}, because no frame is on the published list"
        return split_by_ratio(names, PAPER_RATIO, seed), description
    missing = sorted(listed.keys() - splits.keys(), key=int)
    if missing:
        text = f"{len(missing)} of the {len(listed)} frames on the published list are missing: {shorten(missing)}"
        problems.append(Problem(SOURCE, ProblemCode.INCOMPLETE, text))
    others = [name for name in names if name not in listed]
    addition = f", and 8:1:1 with seed {seed} for {len(others)} frames that are not on it" if others else ""
    return splits | split_by_ratio(others, PAPER_RATIO, seed), f"the published list{addition}"


def _check_one_set(images: Sequence[Match], masks: Sequence[Match], title: str, sources: Sequence[Path]) -> None:
    """Raise a UserError if frames and masks are in the folders of several data sets."""
    sets = sorted(set.intersection(*({_set_folder(match) for match in matches} for matches in (images, masks))))
    if len(sets) > 1:
        key = title.removeprefix("CVC-").casefold()
        example = next((name for name in sets if key in name.casefold()), sets[0])
        example = f"{sources[0]}/{example}" if len(sources) == 1 and sources[0].is_dir() else example
        names = shorten([name or "." for name in sets], limit=8)
        raise UserError(f"the source has several sets ({names}): name the folder of one of them, such as {example}")


def _set_folder(match: Match) -> str:
    """The folders above those of frames and masks, without train, val and test."""
    return "/".join(folder for folder in match.folders if folder.casefold() not in SPLIT_NAMES)


def _frame_number(file: SourceFile) -> str:
    """The number of a frame as the lists have it, without leading zeros."""
    return str(int(file.stem)) if file.stem.isdecimal() else file.stem


def _ignore_tif_copies(files: list[SourceFile], notes: list[str]) -> list[SourceFile]:
    """The files without the TIF files, if the source has the same frames in a folder PNG and in a folder TIF."""
    as_png = [file for file in files if "png" in map(str.lower, file.folders)]
    as_tif = {file for file in files if {"tif", "tiff"} & set(map(str.lower, file.folders))}
    if not (as_png and as_tif):
        return files
    notes.append(f"{len(as_tif)} TIF files are ignored, because PNG files hold the same frames")
    return [file for file in files if file not in as_tif]


COLONDB = _make_layout("CVC-ColonDB", "colondb", "images/1.png and masks/1.png")
CLINICDB = _make_layout(
    "CVC-ClinicDB", "clinicdb", "Original/1.tif and 'Ground Truth/1.tif', or images/1.png and masks/1.png"
)
