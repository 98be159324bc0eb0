"""Any folder of images and masks, matched by their file names."""

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...utils.errors import UserError
from ..case import Reader, SourceCase
from ..formats import IMAGE_ENDINGS, VOLUME_ENDINGS
from ..plan import Plan
from ..problems import Problem, ProblemCode, UnusableError, shorten
from ..sources import SourceFile
from ..splits import SPLIT_NAMES, assign_entries, parse_ratio, split_by_ratio
from .layout import Layout
from .pairing import PATTERN_HINT, READABLE_ENDINGS, hint_for_ending, is_readable, name_cases, pair_images_with_masks
from .patterns import PATTERN_HELP, Match, Pattern, find_images_and_masks, readable_path, relative_pattern

if TYPE_CHECKING:
    from ..labels import MaskLabels

_MAX_FOLDERS_LISTED = 8
_DEFAULT_RATIO = "8:1:1"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this layout."""
    parser.add_argument(
        "--images", metavar="PATTERN",
        help="folder or pattern of the images (default: folders named images, img_dir, original ...)",
    )  # fmt: skip
    parser.add_argument(
        "--masks", metavar="PATTERN",
        help="folder or pattern of the masks (default: folders named masks, ann_dir, ground truth, labels ...)",
    )  # fmt: skip
    parser.add_argument(
        "--labels", nargs="+", type=_parse_label, metavar="VALUE=NAME",
        help="several classes: the names of the values of the masks, such as 0=background 128=cell 255=nucleus; "
        "values with the same name become one class, and `ignore` is nnU-Net's ignore label",
    )  # fmt: skip
    parser.add_argument(
        "--foreground", metavar="NAME", help="one class: the name of the class of 0/1 and 0/255 masks "
        "(default: foreground)",
    )  # fmt: skip
    parser.add_argument(
        "--channels", choices=["grey", "RGB"],
        help="the kind of all images; others are reported (default: the kind of most images)",
    )  # fmt: skip
    parser.add_argument(
        "--channel-name", metavar="NAME", default="image",
        help="volumes only: the name of the channel, by which nnU-Net chooses the normalisation: CT, or any other name "
        "such as MRI (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--split", metavar="FILE|A:B:C",
        help="a file with lines CASE,SPLIT, a JSON file "
        '{"train": [...], "val": [...], "test": [...]}, a folder with train.txt, val.txt and test.txt, or a ratio '
        f"train:val:test (default: folders named train, val and test, or else {_DEFAULT_RATIO})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of a split by ratio (default: %(default)s)")


def make_plan(files: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """Make the plan of a source with this layout; see `Layout`."""
    patterns = [text and relative_pattern(text, arguments.source) for text in (arguments.images, arguments.masks)]
    images, masks = find_images_and_masks(files, *patterns)
    _check_found(files, images, masks, *patterns)
    pairs, unpaired = pair_images_with_masks(images, masks)
    notes = _note_others(files, [*images, *masks], unpaired)
    unlabelled = _find_unlabelled(images, unpaired) if arguments.split is None else []
    if unlabelled:
        notes.append(f"the {len(unlabelled)} test images have no masks and are converted without labels")
    names = {image.file.name for (image,) in unlabelled}
    problems = [*problems, *(problem for problem in unpaired if problem.file not in names)]
    cases = name_cases([*pairs, *unlabelled])
    splits, split = _split(cases, arguments, problems)
    source_cases = [
        SourceCase(name, splits[name], (image.file,), tuple(match.file for match in mask))
        for name, (image, *mask) in cases.items() if name in splits
    ]  # fmt: skip
    mask_labels = _mask_labels(arguments)
    reader, channel_names = _choose_reader(source_cases, mask_labels, arguments)
    return Plan(
        title=arguments.name or "images and masks", name="Images", cases=source_cases, reader=reader,
        labels=mask_labels.labels, channel_names=channel_names, split=split, problems=problems,
        notes=notes,
    )  # fmt: skip


def _check_found(
    files: Sequence[SourceFile],
    images: Sequence[Match],
    masks: Sequence[Match],
    image_pattern: str | None,
    mask_pattern: str | None,
) -> None:
    """Raise a UserError that names the folders if there are no images or no masks that can be read."""
    for matches, title, pattern in ((images, "images", image_pattern), (masks, "masks", mask_pattern)):
        if any(match.file.ending in READABLE_ENDINGS for match in matches):
            continue
        if matches:
            endings = shorten(sorted({match.file.ending or "no ending" for match in matches}))
            raise UserError(
                f"none of the {title} can be read ({len(matches)} files with {endings}): "
                f"expected {', '.join(READABLE_ENDINGS)}; {hint_for_ending(matches[0].file)}"
            )
        counts = Counter("/".join(file.folders) or "." for file in files if file.ending in READABLE_ENDINGS)
        folders = shorten([f"{name} ({count})" for name, count in sorted(counts.items())], _MAX_FOLDERS_LISTED)
        found = f"no {title} in the source" if pattern is None else f"no file of the source matches --{title} {pattern}"
        if pattern is not None and any(map(Pattern(pattern).match, files)):
            found = f"all files that match --{title} {pattern} are taken by the other pattern"
        expected = f"expected folders images/ and masks/, or {PATTERN_HINT}"
        raise UserError(f"{found}; its folders with images or volumes are: {folders or 'none'}; {expected}")


def _find_unlabelled(images: Sequence[Match], problems: Sequence[Problem]) -> list[tuple[Match]]:
    """The images in folders named test, if none of them has a mask."""
    missing = {problem.file for problem in problems if problem.code is ProblemCode.MASK_MISSING}
    test = [image for image in images if is_readable(image.file) and _find_split((image,)) == "test"]
    return [(image,) for image in test] if all(image.file.name in missing for image in test) else []


def _note_others(files: Sequence[SourceFile], matches: Sequence[Match], problems: Sequence[Problem]) -> list[str]:
    """A note about the files that are neither images nor masks."""
    used = {match.file.name for match in matches if is_readable(match.file)} | {problem.file for problem in problems}
    endings = Counter(file.ending or "no ending" for file in files if file.name not in used)
    if not endings:
        return []
    counts = shorten([f"{count} {ending}" for ending, count in endings.most_common()])
    return [f"{endings.total()} other files are ignored: {counts}"]


def _choose_reader(
    cases: Sequence[SourceCase], mask_labels: "MaskLabels", arguments: argparse.Namespace
) -> tuple[Reader, Sequence[str]]:
    """The reader for 2-D images or for volumes, and the names of the channels."""
    from ..images import CHANNEL_NAMES, ImageReader
    from ..volumes import NiftiReader

    kinds = {file.ending in VOLUME_ENDINGS for case in cases for file in case.files}
    if kinds == {True, False}:
        raise UserError("the source has 2-D images and volumes: name the folder of one kind")
    if True in kinds:
        if arguments.size or arguments.resize_masks or arguments.channels:
            raise UserError("--size, --resize-masks and --channels are for 2-D images, but the source has volumes")
        return NiftiReader(mask_labels), (arguments.channel_name,)
    channels = {"grey": 1, "RGB": 3}.get(arguments.channels) or _most_frequent_channels(c.image[0] for c in cases)
    return ImageReader(mask_labels, channels, arguments.size, arguments.resize_masks, arguments.palette), CHANNEL_NAMES[
        channels
    ]


def _split(
    cases: Mapping[str, tuple[Match, ...]], arguments: argparse.Namespace, problems: list[Problem]
) -> tuple[dict[str, str], str]:
    """The split of every case and its description; cases and entries that do not match are added to the problems."""
    if arguments.split is None:
        by_folder = {name: split for name, pair in cases.items() if (split := _find_split(pair))}
        if cases and len(by_folder) == len(cases):
            return by_folder, "the names of the folders"
        if by_folder:
            others = sorted({"/".join(cases[name][0].file.folders) or "." for name in cases.keys() - by_folder.keys()})
            hint = "rename them to train, val or test, or pass --split"
            raise UserError(f"some folders are named after a split, but not {shorten(others)}: {hint}")
    ratio = parse_ratio(arguments.split or _DEFAULT_RATIO)
    if ratio:
        parts = ":".join(f"{part:g}" for part in ratio)
        return split_by_ratio(cases, ratio, arguments.seed), f"{parts} with seed {arguments.seed}"
    splits, unused = assign_entries(
        Path(arguments.split), {name: [match.file for match in pair] for name, pair in cases.items()}
    )
    for entry, candidates in unused.items():
        text = f"the split file names {entry}, but the source has no such case"
        if candidates:
            text = f"the split file names {entry}, which can be {shorten(candidates)}; add the folder"
        problems.append(Problem(arguments.split, ProblemCode.INCOMPLETE, text))
    for name in cases.keys() - splits.keys():
        text = f"the split file {arguments.split} does not name the case"
        problems.append(Problem(cases[name][0].file.name, ProblemCode.NO_SPLIT, text))
    return splits, arguments.split


def _find_split(pair: tuple[Match, ...]) -> str | None:
    """The split by {split}, or that of the innermost folder of the image with the name of a split."""
    for text in (match.split for match in pair if match.split):
        if text.casefold() not in SPLIT_NAMES:
            raise UserError(f"{{split}} is {text!r} in {pair[0].file.name}: expected train, val or test")
        return SPLIT_NAMES[text.casefold()]
    folders = reversed(readable_path(pair[0].file).split("/")[:-1])
    return next((split for folder in folders if (split := SPLIT_NAMES.get(folder.casefold()))), None)


def _most_frequent_channels(files: Iterable[SourceFile]) -> int:
    """The number of channels that most images have."""
    from ..pictures import read_channels

    counts: Counter[int] = Counter()
    for file in files:
        try:
            counts[read_channels(file)] += 1
        except UnusableError:
            continue  # reported when the file is converted
    return counts.most_common(1)[0][0] if counts else 3


def _mask_labels(arguments: argparse.Namespace) -> "MaskLabels":
    """The meaning of the values of the masks, by --labels or --foreground and --threshold."""
    from ..labels import BinaryMask, LabelMap

    if not arguments.labels:
        name = "foreground" if arguments.foreground is None else arguments.foreground
        if name.lower() in ("", "background", "ignore"):
            raise UserError(f"--foreground must be the name of a class, got {name!r}")
        return BinaryMask(name, arguments.threshold)
    for option, value in (("--foreground", arguments.foreground), ("--threshold", arguments.threshold)):
        if value is not None:
            raise UserError(f"{option} is for masks of one class, --labels for several: pass one of them")
    names = dict(arguments.labels)
    if len(names) < len(arguments.labels):
        raise UserError("--labels names a value twice")
    if names.get(0, "background") != "background":
        raise UserError(f"--labels: the value 0 is nnU-Net's background, got 0={names[0]}")
    classes = [name for name in dict.fromkeys(names.values()) if name not in ("background", "ignore")]
    if not classes:
        raise UserError("--labels names no foreground class")
    classes += ["ignore"] * ("ignore" in names.values())  # nnU-Net requires that it is the last label
    labels = {"background": 0} | {name: label for label, name in enumerate(classes, 1)}
    return LabelMap({0: 0} | {value: labels[name] for value, name in names.items()}, labels)


def _parse_label(text: str) -> tuple[int, str]:
    value, _, name = text.partition("=")
    if not value.isdecimal() or not name:
        raise argparse.ArgumentTypeError(f"expected VALUE=NAME such as 255=nucleus, got {text!r}")
    # nnU-Net knows these two names in lower case only
    return int(value), name.lower() if name.lower() in ("background", "ignore") else name


LAYOUT = Layout(
    summary="your own images and masks: 2-D images, or NIfTI volumes",
    description=f"""\
Convert any folder of images and masks.

Images and masks with the same file name are one case. They are in folders named images and masks, img_dir and ann_dir,
or the like, anywhere in the source; for other folders and file names, pass --images and --masks. --dry-run prints which
image has which mask. Files are 2-D images ({" ".join(IMAGE_ENDINGS)}),
or all are volumes with one channel ({" ".join(VOLUME_ENDINGS)}).

{PATTERN_HELP}
Masks of one class are 0/1 or 0/255. Masks of several classes need --labels.

examples:
  xattnres convert folder Nuclei_DSB2018 --dataset-id 505 --name Nuclei --foreground nucleus
  xattnres convert folder scans --dataset-id 506 --labels 1=cell 2=nucleus --split split.csv
  xattnres convert folder pairs --dataset-id 507 --images '*.bmp' --masks '*.png' --dry-run
  xattnres convert folder DRIVE --dataset-id 508 --images 'images/{{case}}_*' --masks '1st_manual/{{case}}_*'
""",
    configure=configure,
    make_plan=make_plan,
)
