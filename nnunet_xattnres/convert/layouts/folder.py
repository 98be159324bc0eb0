"""Any folder of images and masks, matched by their file names."""

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...utils.errors import UserError
from ..case import Reader, SourceCase
from ..formats import IMAGE_ENDINGS, VOLUME_ENDINGS
from ..plan import FilesByCase, Plan, pair
from ..problems import Problem, ProblemCode, UnusableError
from ..sources import SourceFile, is_safe_name
from ..splits import parse_ratio, read_split_file, split_by_ratio
from .folder_names import IMAGE_FOLDERS, MASK_FOLDERS, in_folders
from .layout import Layout

if TYPE_CHECKING:
    from ..labels import MaskLabels

_MAX_FOLDERS_LISTED = 8
_DEFAULT_RATIO = "8:1:1"
_SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this layout."""
    parser.add_argument(
        "--images", metavar="NAME", help="name of the folder of the images (default: images, image, imgs, original)"
    )
    parser.add_argument(
        "--masks", metavar="NAME", help="name of the folder of the masks (default: masks, mask, ground truth, gt ...)"
    )
    parser.add_argument(
        "--image-suffix", default="", metavar="TEXT",
        help="text at the end of the images' file names, before the file ending, that is not part of the case name",
    )  # fmt: skip
    parser.add_argument(
        "--mask-suffix", default="", metavar="TEXT",
        help="the same for masks, such as _mask; if images and masks are in one folder, it tells them apart",
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
        '{"train": [...], "val": [...], "test": [...]}, or a ratio train:val:test '
        f"(default: folders named train, val and test, or else {_DEFAULT_RATIO})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of a split by ratio (default: %(default)s)")


def make_plan(files: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """Make the plan of a source with this layout; see `Layout`."""
    usable = [file for file in files if file.ending in (*IMAGE_ENDINGS, *VOLUME_ENDINGS)]
    image_files, mask_files = _tell_apart(usable, arguments)
    image_suffix, mask_suffix = arguments.image_suffix, arguments.mask_suffix
    images = FilesByCase(image_files, lambda file: file.stem.removesuffix(image_suffix))
    masks = FilesByCase(mask_files, lambda file: file.stem.removesuffix(mask_suffix))
    names, unpaired = pair(images, masks)
    problems = [*problems, *unpaired]
    for name in [name for name in names if not is_safe_name(name)]:
        text = "the file name cannot be the name of a case; rename the file"
        problems.append(Problem(images[name].name, ProblemCode.BAD_NAME, text))
        names.remove(name)
    splits, split = _split({name: images[name] for name in names}, arguments, problems)
    cases = [SourceCase(name, splits[name], (images[name],), (masks[name],)) for name in names if name in splits]
    mask_labels = _mask_labels(arguments)
    num_ignored = len(files) - len(image_files) - len(mask_files)
    reader, channel_names = _choose_reader(cases, mask_labels, arguments)
    return Plan(
        title=arguments.name or "images and masks", name="Images", cases=cases, reader=reader,
        labels=mask_labels.labels, channel_names=channel_names, split=split, problems=problems,
        notes=[f"{num_ignored} other files are ignored"] if num_ignored else [],
    )  # fmt: skip


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
    return ImageReader(mask_labels, channels, arguments.size, arguments.resize_masks), CHANNEL_NAMES[channels]


def _tell_apart(
    files: Sequence[SourceFile], arguments: argparse.Namespace
) -> tuple[list[SourceFile], list[SourceFile]]:
    """Images and masks, by their folders, or else by the suffix of the masks."""
    image_folders = {arguments.images.lower()} if arguments.images else IMAGE_FOLDERS
    mask_folders = {arguments.masks.lower()} if arguments.masks else MASK_FOLDERS
    masks = [f for f in in_folders(files, mask_folders) if f.stem.endswith(arguments.mask_suffix)]
    if masks:
        images = in_folders(files, image_folders)
    elif arguments.mask_suffix and not arguments.masks:
        masks = [f for f in files if f.stem.endswith(arguments.mask_suffix)]
        images = [f for f in files if not f.stem.endswith(arguments.mask_suffix)]
        images = in_folders(images, image_folders) if arguments.images else images
    else:
        images = in_folders(files, image_folders)
    images = [file for file in images if file.stem.endswith(arguments.image_suffix)]
    if not images or not masks:
        missing = "images" if not images else "masks"
        counts = Counter("/".join(file.folders) or "." for file in files)
        folders = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())[:_MAX_FOLDERS_LISTED])
        expected = "expected folders images/ and masks/, or --images and --masks, or --mask-suffix"
        raise UserError(
            f"no {missing} in the source, whose folders with images or volumes are: {folders or 'none'}; {expected}"
        )
    return images, masks


def _split(
    images: Mapping[str, SourceFile], arguments: argparse.Namespace, problems: list[Problem]
) -> tuple[dict[str, str], str]:
    """The split of every case and its description; cases and entries that do not match are added to the problems."""
    if arguments.split is None:
        by_folder = {name: split for name, file in images.items() if (split := _split_of_folder(file))}
        if images and len(by_folder) == len(images):
            return by_folder, "the names of the folders"
        if by_folder:
            others = sorted({"/".join(images[name].folders) or "." for name in images.keys() - by_folder.keys()})
            hint = "rename them to train, val or test, or pass --split"
            raise UserError(f"some folders are named after a split, but not {', '.join(others)}: {hint}")
    ratio = parse_ratio(arguments.split or _DEFAULT_RATIO)
    if ratio:
        parts = ":".join(f"{part:g}" for part in ratio)
        return split_by_ratio(images, ratio, arguments.seed), f"{parts} with seed {arguments.seed}"
    splits = read_split_file(Path(arguments.split))
    for name in splits.keys() - images.keys():
        text = f"the split file names {name}, but the source has no such case"
        problems.append(Problem(arguments.split, ProblemCode.INCOMPLETE, text))
    for name in images.keys() - splits.keys():
        text = f"the split file {arguments.split} does not name the case"
        problems.append(Problem(images[name].name, ProblemCode.NO_SPLIT, text))
    return {name: split for name, split in splits.items() if name in images}, arguments.split


def _split_of_folder(file: SourceFile) -> str | None:
    """The split that the innermost folder with such a name belongs to."""
    return next((s for folder in reversed(file.folders) if (s := _SPLIT_FOLDERS.get(folder.lower()))), None)


def _most_frequent_channels(files: Iterable[SourceFile]) -> int:
    """The number of channels that most images have."""
    from ..images import count_channels, decode

    counts: Counter[int] = Counter()
    for file in files:
        try:
            counts[count_channels(decode(file))] += 1
        except UnusableError:
            continue  # reported when the file is converted
    return counts.most_common(1)[0][0] if counts else 3


def _mask_labels(arguments: argparse.Namespace) -> "MaskLabels":
    """The meaning of the values of the masks, by --labels or --foreground and --threshold."""
    from ..labels import BinaryMask, LabelMap

    if not arguments.labels:
        name = "foreground" if arguments.foreground is None else arguments.foreground
        if name in ("", "background", "ignore"):
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
    return int(value), name


LAYOUT = Layout(
    summary="your own images and masks: 2-D images, or NIfTI volumes",
    description="""\
Convert any folder of images and masks.

Images and masks with the same file name are one case. They are in folders named images and masks (or --images and
--masks), or in one folder, where --mask-suffix tells the masks apart. Images are png, jpg, bmp or tif, masks likewise,
or both are NIfTI volumes with one channel (.nii.gz, .nii).

Masks of one class are 0/1 or 0/255. Masks of several classes need --labels.

examples:
  xattnres convert folder Nuclei_DSB2018 --dataset-id 505 --name Nuclei --foreground nucleus
  xattnres convert folder scans --dataset-id 506 --mask-suffix _mask --labels 1=cell 2=nucleus --split split.csv
""",
    configure=configure,
    make_plan=make_plan,
)
