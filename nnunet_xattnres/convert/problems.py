"""Problems of a source: they are collected over all files and reported together."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

SOURCE = "the source"
"""The `file` of a problem that concerns the source as a whole."""


class ProblemCode(str, Enum):
    """The kind of a problem. The codes are stable, the texts of problems are not.

    >>> ProblemCode.SIZE_MISMATCH.value
    'size-mismatch'
    >>> ProblemCode("size-mismatch").meaning
    'Mask and image, or the slices of a case, differ in size.'
    """

    UNREADABLE = "unreadable", "The file cannot be read from the disk or from its archive."
    DAMAGED = "damaged", "The content of the file is truncated, damaged or of another format."
    UNSAFE_PATH = "unsafe-path", "The name of a file in an archive points outside the archive."

    ENDING = "ending", "The file ending is none of those that can be read."
    DUPLICATE = "duplicate", "Several files claim to be the same image, mask or slice."
    MASK_MISSING = "mask-missing", "The image has no mask."
    IMAGE_MISSING = "image-missing", "The mask has no image."
    INCOMPLETE = "incomplete", "A published list or a split file names cases or slices that the source does not have."
    NOT_LISTED = "not-listed", "The published list does not name the case."
    NO_SPLIT = "no-split", "Neither a folder nor the split file assigns the case to train, val or test."

    NOT_AN_IMAGE = "not-an-image", "The file is not a 2-D image of a known format."
    TOO_LARGE = "too-large", "The image has more pixels than is safe to decode."
    BIT_DEPTH = "bit-depth", "The image, or a mask with several channels, has more than 8 bits per channel."
    SEVERAL_FRAMES = "several-frames", "The file holds several images, pages or frames."
    COLOUR_MODE = "colour-mode", "The image is neither grey nor RGB nor a palette image."
    CHANNELS = "channels", "The image is grey and the data set RGB, or the other way round."
    DIMENSIONS = "dimensions", "The volume is not 3-D with one channel."
    NOT_FINITE = "not-finite", "The image or the mask has values that are NaN or infinite."
    SPACING = "spacing", "The voxel spacing is zero or not a number."
    VALUE_RANGE = "value-range", "The image has values outside the range of its format."
    SIZE_MISMATCH = "size-mismatch", "Mask and image, or the slices of a case, differ in size."
    GEOMETRY_MISMATCH = "geometry-mismatch", "Mask and image differ in spacing, origin or direction."

    MASK_COLOURS = "mask-colours", "The mask has colours instead of grey values or palette indices."
    PALETTE = "palette", "A palette index of the mask has another colour than in most masks."
    MASK_VALUES = "mask-values", "The mask of one class has values other than 0/1 or 0/255."
    SEVERAL_CLASSES = "several-classes", "The mask of one class has a few distinct values besides 0 and 255."
    SMEARED_MASK = "smeared-mask", "Too many pixels of the mask are neither background nor foreground."
    UNKNOWN_LABEL = "unknown-label", "The mask has values that the label map does not have."
    NO_FOREGROUND = "no-foreground", "No mask of the data set has any foreground."
    LABEL_ORDER = "label-order", "The sizes of the organs contradict the order of the labels."

    meaning: str

    def __new__(cls, code: str, meaning: str) -> "ProblemCode":
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, order=True)
class Problem:
    """A problem of one file, or of the source as a whole.

    Attributes:
        file: the file as the user knows it, or `SOURCE`.
        code: the kind of problem.
        text: what was expected, what came instead, and what to do.

    >>> print(Problem("masks/3.png", ProblemCode.MASK_MISSING, "the image has no mask"))
    masks/3.png: mask-missing: the image has no mask
    """

    file: str
    code: ProblemCode
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.code}: {self.text}"


class UnusableError(Exception):
    """A file of the source cannot be used; `problem` says why."""

    def __init__(self, file: str, code: ProblemCode, text: str):
        super().__init__(file, code, text)
        self.problem = Problem(file, code, text)


def shorten(items: Sequence[object], limit: int = 5) -> str:
    """The first items of a list for messages.

    >>> shorten([3, 4, 5], limit=2)
    '3, 4 ...'
    """
    return ", ".join(map(str, items[:limit])) + (" ..." if len(items) > limit else "")
