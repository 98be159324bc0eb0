"""Any folder of images and masks, matched by their names."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...utils.errors import UserError
from .. import images as image_reader
from .. import volumes
from ..case import Case
from ..labels import BinaryMask, LabelMap
from ..plan import FilesByCase, Plan, pair
from ..problems import Problem, UnusableError
from ..sources import File, is_safe
from ..splits import by_ratio, read_file, read_ratio
from . import pairs

_TOLD = 8
_SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", metavar="NAME", help="folder of the images (default: images, image, imgs, original)"
    )
    parser.add_argument(
        "--masks", metavar="NAME", help="folder of the masks (default: masks, mask, ground truth, gt ...)"
    )
    parser.add_argument("--image-suffix", default="", metavar="TEXT", help="end of the images' names before the ending")
    parser.add_argument(
        "--mask-suffix", default="", metavar="TEXT",
        help="end of the masks' names before the ending, such as _mask; tells them from images without folders",
    )  # fmt: skip
    parser.add_argument(
        "--labels", nargs="+", type=_label, metavar="VALUE=NAME",
        help="several classes: what the values of the masks mean, such as 0=background 128=cell 255=nucleus; "
        "values of one name are joined; `ignore` is nnU-Net's ignore label",
    )  # fmt: skip
    parser.add_argument("--foreground", metavar="NAME", help="the class of 0/1 and 0/255 masks (default: foreground)")
    parser.add_argument("--channels", choices=["grey", "RGB"], help="of every image (default: what most of them have)")
    parser.add_argument(
        "--channel-name", metavar="NAME", default="image",
        help="of volumes, for nnU-Net's normalisation: CT, or anything else such as MRI (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--split", metavar="FILE|A:B:C",
        help='lines CASE,SPLIT or JSON {"train": [...], "val": [...], "test": [...]}, or a ratio '
        "train:val:test (default: folders named train, val, test if there are, else 8:1:1)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of a split by ratio (default: %(default)s)")


def find(files: Sequence[File], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """The cases in the files of a source."""
    endings = (*image_reader.ENDINGS, *volumes.ENDINGS)
    usable = [file for file in files if file.ending in endings]
    image_files, mask_files = _tell_apart(usable, arguments)
    image_suffix, mask_suffix = arguments.image_suffix, arguments.mask_suffix
    images = FilesByCase(image_files, lambda file: file.stem.removesuffix(image_suffix))
    masks = FilesByCase(mask_files, lambda file: file.stem.removesuffix(mask_suffix))
    names, unpaired = pair(images, masks)
    problems = [*problems, *unpaired]
    for name in [name for name in names if not is_safe(name)]:
        problems.append(Problem(images[name].name, "its name cannot be a case's name: rename it"))
        names.remove(name)
    splits, split = _split({name: images[name] for name in names}, arguments, problems)
    cases = [Case(name, splits[name], (images[name],), (masks[name],)) for name in names if name in splits]
    meaning = _meaning(arguments)
    others = len(files) - len(image_files) - len(mask_files)
    notes = [f"{others} other files are left aside"] if others else []
    kinds = Counter(file.ending in volumes.ENDINGS for case in cases for file in case.files)
    if kinds[True] and kinds[False]:
        raise UserError("the source has pictures and volumes: name the folder of one kind")
    if kinds[True]:
        if arguments.size or arguments.resize_masks or arguments.channels:
            raise UserError("--size, --resize-masks and --channels are for pictures, and the source has volumes")
        reader, channel_names = volumes.NiftiReader(meaning), (arguments.channel_name,)
    else:
        channels = {"grey": 1, "RGB": 3}.get(arguments.channels) or _most_channels(images[c.name] for c in cases)
        reader = image_reader.PictureReader(meaning, channels, arguments.size, arguments.resize_masks)
        channel_names = image_reader.CHANNEL_NAMES[channels]
    return Plan(
        title=arguments.name or "images and masks", name="Images", cases=cases, reader=reader, labels=meaning.names,
        channel_names=channel_names, split=split, problems=problems, notes=notes,
    )  # fmt: skip


def _tell_apart(files: Sequence[File], arguments: argparse.Namespace) -> tuple[list[File], list[File]]:
    """Images and masks, by their folders, or else by the masks' suffix."""
    image_folders = {arguments.images.lower()} if arguments.images else pairs.IMAGE_FOLDERS
    mask_folders = {arguments.masks.lower()} if arguments.masks else pairs.MASK_FOLDERS
    masks = [f for f in pairs.in_folders(files, mask_folders) if f.stem.endswith(arguments.mask_suffix)]
    if masks:
        images = pairs.in_folders(files, image_folders)
    elif arguments.mask_suffix and not arguments.masks:
        masks = [f for f in files if f.stem.endswith(arguments.mask_suffix)]
        images = [f for f in files if not f.stem.endswith(arguments.mask_suffix)]
        images = pairs.in_folders(images, image_folders) if arguments.images else images
    else:
        images = pairs.in_folders(files, image_folders)
    images = [file for file in images if file.stem.endswith(arguments.image_suffix)]
    if not images or not masks:
        missing = "images" if not images else "masks"
        counts = Counter("/".join(file.folders) or "." for file in files)
        found = ", ".join(f"{folder} ({count})" for folder, count in sorted(counts.items())[:_TOLD]) or "none"
        wanted = "expected folders images/ and masks/, names with --images and --masks, or --mask-suffix"
        raise UserError(
            f"no {missing} found in the source, whose folders of pictures and volumes are: {found}; {wanted}"
        )
    return images, masks


def _split(
    images: dict[str, File], arguments: argparse.Namespace, problems: list[Problem]
) -> tuple[dict[str, str], str]:
    if arguments.split is None:
        by_folder = {name: _folder_split(file) for name, file in images.items()}
        if images and all(by_folder.values()):
            return by_folder, "the source's own folders"
        if any(by_folder.values()):
            other = sorted({"/".join(images[n].folders) or "." for n, split in by_folder.items() if not split})
            cure = "rename them to train, val or test, or pass --split"
            raise UserError(f"some folders tell the split, but not {', '.join(other)}: {cure}")
    ratio = read_ratio(arguments.split or "8:1:1")
    if ratio:
        parts = ":".join(f"{part:g}" for part in ratio)
        return by_ratio(images, ratio, arguments.seed), f"{parts} with seed {arguments.seed}"
    splits = read_file(Path(arguments.split))
    problems += [Problem(arguments.split, f"names {n}, which is not there") for n in splits if n not in images]
    problems += [Problem(images[n].name, "is not in the split file") for n in images if n not in splits]
    return {name: split for name, split in splits.items() if name in images}, arguments.split


def _folder_split(file: File) -> str | None:
    return next((s for folder in reversed(file.folders) if (s := _SPLIT_FOLDERS.get(folder.lower()))), None)


def _most_channels(files) -> int:
    counts: Counter[int] = Counter()
    for file in files:
        try:
            counts[image_reader.count_channels(image_reader.decode(file))] += 1
        except UnusableError:
            continue  # told when it is converted
    return counts.most_common(1)[0][0] if counts else 3


def _meaning(arguments: argparse.Namespace) -> BinaryMask | LabelMap:
    if not arguments.labels:
        name = "foreground" if arguments.foreground is None else arguments.foreground
        if name in ("", "background", "ignore"):
            raise UserError(f"--foreground must name a class, got {name!r}")
        return BinaryMask(name, arguments.threshold)
    if arguments.foreground is not None:
        raise UserError("--foreground is for masks of one class, --labels for several: pass one of them")
    if arguments.threshold is not None:
        raise UserError("--threshold is for masks of one class, --labels for several: pass one of them")
    values = dict(arguments.labels)
    if len(values) < len(arguments.labels):
        raise UserError("--labels names a value twice")
    if values.get(0, "background") != "background":
        raise UserError(f"--labels: nnU-Net's 0 is the background, got 0={values[0]}")
    names = [n for n in dict.fromkeys(values.values()) if n not in ("background", "ignore")]
    names += ["ignore"] * ("ignore" in values.values())  # nnU-Net wants it last
    labels = {"background": 0} | {name: label for label, name in enumerate(names, 1)}
    if not labels.keys() - {"background", "ignore"}:
        raise UserError("--labels names no foreground")
    return LabelMap({0: 0} | {value: labels[name] for value, name in values.items()}, labels)


def _label(text: str) -> tuple[int, str]:
    value, _, name = text.partition("=")
    if not value.isdecimal() or not name:
        raise argparse.ArgumentTypeError(f"expected VALUE=NAME such as 255=nucleus, got {text!r}")
    return int(value), name
