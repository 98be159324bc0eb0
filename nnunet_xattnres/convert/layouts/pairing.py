"""Match images with masks by what patterns found in their paths, and name the cases."""

import posixpath
from collections.abc import Sequence
from itertools import chain

from ...utils.errors import UserError
from ..formats import IMAGE_ENDINGS, UNREAD_ENDINGS, VOLUME_ENDINGS
from ..plan import FilesByCase, pair
from ..problems import Problem, ProblemCode
from ..sources import SourceFile
from .patterns import Match

READABLE_ENDINGS = (*IMAGE_ENDINGS, *VOLUME_ENDINGS)
PATTERN_HINT = (
    "say with --images and --masks which files they are, such as --images '*.bmp' --masks '*_mask.png' (see --help)"
)
"""What to do about files that are not found, or do not match."""


def pair_images_with_masks(
    images: Sequence[Match], masks: Sequence[Match]
) -> tuple[list[tuple[Match, ...]], list[Problem]]:
    """Match images with masks: by folders and name, or else by the name alone.

    Returns:
        The pairs, and a problem for every other file that can be read, and for images and masks that cannot.

    Raises:
        UserError: if there is no pair at all.
    """
    keys = _choose_keys(images, masks)
    cases, problems = [], []
    for matches in (images, masks):
        readable = {keys[match.file] for match in matches if is_readable(match.file)}
        # where a file can be read, a file of another format with the same name is something else
        cases.append([m.file for m in matches if is_readable(m.file) or keys[m.file] not in readable])
    unreadable = {keys[file] for file in chain(*cases) if not is_readable(file)}
    unreadable &= {keys[file] for file in cases[0]} & {keys[file] for file in cases[1]}
    unreadable |= {keys[file] for file in chain(*cases) if file.ending in UNREAD_ENDINGS}
    for file in chain(*cases):
        if keys[file] in unreadable and not is_readable(file):
            text = f"the file has {file.ending or 'no ending'}, expected {', '.join(READABLE_ENDINGS)}"
            problems.append(Problem(file.name, ProblemCode.ENDING, f"{text}; {hint_for_ending(file)}"))
    images_by_case, masks_by_case = (
        FilesByCase((f for f in files if is_readable(f) and keys[f] not in unreadable), keys.__getitem__)
        for files in cases
    )
    names, unpaired = pair(images_by_case, masks_by_case, "keep one of them, or name one with --images or --masks")
    match_of = {match.file: match for match in (*images, *masks)}
    return [(match_of[images_by_case[n]], match_of[masks_by_case[n]]) for n in names], problems + unpaired


def _choose_keys(images: Sequence[Match], masks: Sequence[Match]) -> dict[SourceFile, str]:
    """What images and masks of the same case have in common; upper and lower case matter if both occur.

    Raises:
        UserError: if no image and no mask have anything in common.
    """
    for key in (
        lambda match: match.path, lambda match: match.name,
        lambda match: match.path.casefold(), lambda match: match.name.casefold(),
    ):  # fmt: skip
        if set(map(key, images)) & set(map(key, masks)):
            return {match.file: key(match) for match in (*images, *masks)}
    found = f"{len(images)} images such as {images[0].file.name}, {len(masks)} masks such as {masks[0].file.name}"
    raise UserError(f"no image and mask have the same name ({found}): {PATTERN_HINT}")


def name_cases(pairs: Sequence[tuple[Match, ...]]) -> dict[str, tuple[Match, ...]]:
    """The pairs by the name of the image, or, where names repeat, by the folders that differ and the name."""
    by_name = {image.name: (image, *mask) for image, *mask in pairs}
    if len(by_name) == len(pairs):
        return by_name
    common = f"{posixpath.commonpath([f'/{image.path}' for image, *_ in pairs])}/"
    return {f"/{image.path}".removeprefix(common).lstrip("/"): (image, *mask) for image, *mask in pairs}


def hint_for_ending(file: SourceFile) -> str:
    """What to do about a file whose ending is none of those that can be read."""
    return UNREAD_ENDINGS.get(file.ending, "convert it first")


def is_readable(file: SourceFile) -> bool:
    """Whether the ending is that of an image or a volume that can be read."""
    return file.ending in READABLE_ENDINGS
