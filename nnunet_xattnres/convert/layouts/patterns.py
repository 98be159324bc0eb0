"""Patterns of paths: they tell images from masks, and find the name of the case and its split in a path."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...utils.errors import UserError
from ..case_names import readable_text
from ..sources import SourceFile, name_sources

IMAGE_FOLDERS = "{images,image,imgs,img,img_dir,jpegimages,original,originals}"
MASK_FOLDERS = (
    "{masks,mask,ground truth,ground_truth,groundtruth,gt,gts,labels,label,annotations,annotation,ann_dir,"
    "segmentations,segmentation,segmentationclass}"
)
"""The usual names of the folders of images and of masks, as patterns."""

PATTERN_HELP = """\
A pattern describes the end of a path, in upper or lower case; put it in quotes:
  masks, data/masks      a folder: all files in it and in its folders; /masks is that folder of the source itself
  *, ?, [0-9], **        any text, one character, one of some characters; any folders
  {case}, {split}        the name of the case; its split, such as train, val or test
  {png,tif}              one of these texts
An image and a mask are one case if the texts that {case} matched are the same; without {case}, those of the wildcards.
Where the same name is in several folders, the name of the folder becomes part of the case's name. Without a file
ending, a pattern matches every ending. A file that both patterns match belongs to the one that gives the shorter name.
"""
"""The grammar of patterns, for --help."""

_USUAL_FOLDERS = {folder for pattern in (IMAGE_FOLDERS, MASK_FOLDERS) for folder in pattern[1:-1].split(",")}
_ZIP = re.compile(r"^([^/]+)\.zip/", re.IGNORECASE)
_TOKENS = re.compile(r"(\*+|\?|\[[^\]]+\]|\{[^{}]*\})")
_ENDING = re.compile(r"\.[A-Za-z0-9*?\[\],]+$")


@dataclass(frozen=True)
class Match:
    """A file whose path a pattern describes.

    Attributes:
        file: the file.
        folders: the folders and the texts of wildcards that tell it from other files of the same name.
        name: the name of its case.
        split: the text of {split}, None if the pattern has none.
        rank: the smaller, the more of the path the pattern describes.
    """

    file: SourceFile
    folders: tuple[str, ...]
    name: str
    split: str | None
    rank: tuple[int, int]

    @property
    def path(self) -> str:
        """The folders and the name, such as `train/0`."""
        return "/".join((*self.folders, self.name))


@dataclass(frozen=True)
class Pattern:
    """A pattern with the grammar of `PATTERN_HELP`.

    >>> file = SourceFile("set/train/scan/7_image.png", Path("set"))
    >>> Pattern("scan/*_image.png").match(file).path
    'set/train/7'
    >>> Pattern("{split}/scan/{case}_image").match(file).split
    'train'
    """

    text: str

    def match(self, file: SourceFile) -> Match | None:
        """Match a file; None if the pattern does not describe its path.

        Raises:
            UserError: if the pattern is invalid.
        """
        path = readable_path(file)
        for regex, has_ending in self._regexes:
            if found := regex.fullmatch(path if has_ending else path[: len(path) - len(file.ending)]):
                return _make_match(file, found)
        return None

    @cached_property
    def _regexes(self) -> list[tuple[re.Pattern[str], bool]]:
        """The forms of the pattern, and whether they describe the file ending."""
        text = unicodedata.normalize("NFC", self.text.replace("\\", "/"))
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if not parts:
            raise UserError(f"expected a folder or a pattern such as 'images/*.png', got {self.text!r}")
        parts += ["*"] if parts[-1] == "**" else []
        *folders, name = parts
        name = name.removesuffix(".*") or "*"
        without_captures = re.sub(r"\{[^{},]*\}", "/", name).replace("{", "").replace("}", "")
        forms = [(self._translate([*folders, name]), bool(_ENDING.search(without_captures)))]
        if not re.search(r"[*?\[]|\{case\}", name):  # it can be the name of a folder
            forms.append((self._translate([*parts, "**", "*"]), False))
        return forms

    def _translate(self, parts: Sequence[str]) -> re.Pattern[str]:
        """The regular expression of the components of a path."""
        regex = "" if self.text.startswith(("/", "\\")) else "(?:(?P<rest>.*)/)?"
        captured: set[str] = set()
        *folders, name = parts
        literals = [n for n, part in enumerate(folders) if not _TOKENS.fullmatch(part) or part.startswith("{")]
        for number, part in enumerate(folders):
            if part == "**":
                regex += f"(?:(?P<folders{number}>.+)/)?"
            else:
                regex += self._translate_part(part, f"folder{number}_", captured) + "/"
            if literals and number == literals[-1]:
                regex += "(?P<literal>)"  # an empty group, whose position is the end of the last literal folder
        regex += self._translate_part(name, "name", captured)
        try:
            return re.compile(regex, re.IGNORECASE | re.DOTALL)
        except re.error as error:
            hint = "expected a range of characters such as [0-9]"
            raise UserError(f"the pattern {self.text!r} is invalid ({error.msg}): {hint}") from None

    def _translate_part(self, part: str, group: str, captured: set[str]) -> str:
        regex = ""
        for number, token in enumerate(_TOKENS.split(part)):
            if number % 2 == 0:
                regex += re.escape(token)
            elif token[0] == "*":
                regex += f"(?P<{group}{number}>[^/]*)"
            elif token[0] == "?":
                regex += f"(?P<{group}{number}>[^/])"
            elif token[0] == "[":
                negation = "^/" if token[1] in "!^" and len(token) > 3 else ""
                characters = token[2:-1] if negation else token[1:-1]
                characters = "".join(c if c == "-" else re.escape(c) for c in characters)
                regex += f"(?P<{group}{number}>[{negation}{characters}])"
            elif "," in token:
                regex += f"(?:{'|'.join(re.escape(text) for text in token[1:-1].split(','))})"
            elif token in ("{case}", "{split}"):
                name = token[1:-1]
                text = "[^/]+?" if name == "split" else "[^/]+"  # in train_a_1, the split is train
                regex += f"(?P={name})" if name in captured else f"(?P<{name}>{text})"
                captured.add(name)
            else:
                raise UserError(f"the pattern {self.text!r} has {token}: expected {{case}}, {{split}} or {{png,tif}}")
        return regex


def _make_match(file: SourceFile, found: re.Match[str]) -> Match:
    texts = {group: text for group, text in found.groupdict().items() if text}
    case, split = texts.get("case"), texts.get("split")
    groups = ["rest", *(group for group in texts if group.startswith("folder") and not case), "split"]
    folders = [part for group in groups for part in texts.get(group, "").split("/")]
    folders = [part for part in folders if part and part.casefold() not in _USUAL_FOLDERS]
    if case is None:
        case, end = "", None
        for group in (group for group in texts if group.startswith("name")):
            case += ("_" if end not in (None, found.start(group)) else "") + texts[group]
            end = found.end(group)
        case = case or (folders.pop() if folders else file.stem)
    depth = found.start("literal") if "literal" in found.re.groupindex else -1
    return Match(file, tuple(folders), case, split, (len(case), -depth))


def find_images_and_masks(
    files: Sequence[SourceFile], images: str | None = None, masks: str | None = None
) -> tuple[list[Match], list[Match]]:
    """Find the images and the masks of a source.

    Args:
        files: all files.
        images: the pattern of the images; None means the usual folders, or else all files that are no masks.
        masks: the pattern of the masks, likewise.

    Raises:
        UserError: if a pattern is invalid.
    """
    image_pattern = Pattern(IMAGE_FOLDERS if images is None else images)
    mask_pattern = Pattern(MASK_FOLDERS if masks is None else masks)
    any_file = Pattern("*")
    if not any(map(image_pattern.match, files)):
        image_pattern = Pattern(f"{image_pattern.text}/**")  # wildcards that describe folders
    if not any(map(mask_pattern.match, files)):
        mask_pattern = Pattern(f"{mask_pattern.text}/**")
    found: tuple[list[Match], list[Match]] = ([], [])
    others: list[Match] = []
    for file in files:
        image, mask = image_pattern.match(file), mask_pattern.match(file)
        if image and (not mask or image.rank < mask.rank):
            found[0].append(image)
        elif mask:
            found[1].append(mask)
        elif other := any_file.match(file):
            others.append(other)
    if masks is not None and images is None and not found[0]:
        return others, found[1]
    if images is not None and masks is None and not found[1]:
        return found[0], others
    return found


def relative_pattern(text: str, sources: Sequence[Path]) -> str:
    """A pattern relative to the source, where it is a path to the folder of the source or below it.

    >>> relative_pattern("/data/set/images/*.png", [Path("/data/set")])
    '/images/*.png'
    >>> relative_pattern("images/*.png", [Path("/data/set")])
    'images/*.png'
    """
    path, folder = Path(os.path.abspath(text)), Path.cwd()
    for source, name in zip(sources, name_sources(sources), strict=True):
        # in the source itself, a pattern without its path is none that begins there
        is_path = os.path.isabs(text) or folder in source.parents
        if text and is_path and path.is_relative_to(source):
            return "/" + "/".join([*filter(None, [name]), *(path.relative_to(source).parts or ["**"])])
    return text


def readable_path(file: SourceFile) -> str:
    """The path of a file without the .zip of the archive that holds it."""
    path = readable_text(file.name)
    return _ZIP.sub(r"\1/", path) if file.member else path
