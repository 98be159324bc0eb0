"""2-D images and masks (grey, RGB, palette, with alpha), written as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.tables import format_size
from ..utils.workers import map_unordered
from .case import CaseData, SourceCase
from .labels import MaskLabels, count_labels, describe_lost_labels
from .mask_encoding import MaskEncoding, decide_encoding, survey_mask
from .pictures import CHANNELS_OF_MODES, Picture, count_channels, decode, decode_mask
from .problems import ProblemCode, UnusableError
from .sources import SourceFile

CHANNEL_NAMES = {1: ("grey",), 3: ("R", "G", "B")}
_CHANNEL_TITLES = {1: "grey (1 channel)", 3: "RGB (3 channels)"}
_RATIO_TOLERANCE = 0.02  # of width to height, which rounding changes when images are reduced
_MAX_PREVIEW_PIXELS = 1024  # of a side


@dataclass(frozen=True)
class ImageReader:
    """Reads images and masks; writes PNG, which nnU-Net reads without loss.

    Attributes:
        mask_labels: the meaning of the values of the masks.
        channels: number of channels that every image must have: 1 (grey) or 3 (RGB).
        size: (height, width) to resize to, None keeps the size.
        resize_masks: resize a mask that differs in size from its image, instead of refusing it.
        palette: the option --palette: read palette masks by their "indices" or their "grey" values; None decides by
            all masks.
        encoding: how the values of masks are read, which `prepare` decides.
    """

    mask_labels: MaskLabels
    channels: int
    size: tuple[int, int] | None = None
    resize_masks: bool = False
    palette: str | None = None
    encoding: MaskEncoding = field(default_factory=MaskEncoding)

    ending = ".png"

    def prepare(self, cases: Sequence[SourceCase], workers: int) -> tuple["ImageReader", list[str]]:
        masks = [file for case in cases for file in case.mask]
        surveyed = dict(map_unordered(survey_mask, masks, workers, "looking at masks"))
        encoding, notes = decide_encoding([surveyed[mask] for mask in masks], self.mask_labels, self.palette)
        return replace(self, encoding=encoding), notes

    def read(self, case: SourceCase) -> CaseData:
        (file,) = case.image
        picture = decode(file)
        image = picture.image
        # a palette with grey values only is RGB as well
        if self.channels not in (count_channels(picture), CHANNELS_OF_MODES[image.mode]):
            actual, expected = _CHANNEL_TITLES[count_channels(picture)], _CHANNEL_TITLES[self.channels]
            text = f"the image is {actual}, expected {expected}; convert it first"
            raise UnusableError(file.name, ProblemCode.CHANNELS, text)
        pixels, changes = _without_metadata(image.convert("L" if self.channels == 1 else "RGB")), []
        if image.mode in ("LA", "RGBA"):
            changes.append("alpha channel of the image removed")
        if picture.lossy:
            changes.append("image decoded from a file with lossy compression")
        if picture.orientation > 1:
            changes.append(f"image turned upright by its EXIF orientation: {picture.orientation}")
        labels = None
        if case.mask:
            labels, mask_changes = self._read_mask(case.mask[0], file, picture)
            changes += mask_changes
        if self.size and (size := self.size[::-1]) != image.size:
            changes.append(f"resized from {format_size(image.size)} to {format_size(size)} (width x height)")
            pixels = pixels.resize(size, Image.Resampling.BILINEAR)
            if labels:
                labels, lost = _resize_labels(labels, size)
                changes += lost
        return CaseData(pixels, labels, changes, count_labels(np.asarray(labels)) if labels else {})

    def _read_mask(self, file: SourceFile, image_file: SourceFile, image: Picture) -> tuple[Image.Image, list[str]]:
        mask = decode_mask(file)
        size, mask_size = image.image.size, mask.image.size
        if mask_size != size:
            self._check_size(mask, file, image, image_file)
        values = self.encoding.read_values(mask, file)
        labels, changes = self.mask_labels.apply(values, file.name, mask.lossy)
        label_map = Image.fromarray(labels)
        if mask.orientation > 1:
            changes.append(f"mask turned upright by its EXIF orientation: {mask.orientation}")
        if mask_size != size:
            changes.append(f"mask resized from {format_size(mask_size)} to {format_size(size)} (width x height)")
            label_map, lost = _resize_labels(label_map, size)
            changes += lost
        return label_map, changes

    def _check_size(self, mask: Picture, file: SourceFile, image: Picture, image_file: SourceFile) -> None:
        """Raise an UnusableError unless a mask of another size than its image may be resized."""
        size, mask_size = image.image.size, mask.image.size
        sizes = f"the mask has {format_size(mask_size)} pixels, its image {image_file.name} {format_size(size)}"
        if _is_turned(mask_size, size):
            if image.turned or mask.turned:
                turned = "image" if image.turned else "mask"
                hint = (
                    f"the EXIF orientation of the {turned} turns it; turn the other as well, or remove the orientation"
                )
            else:
                hint = "one of them is turned by 90 degrees; turn it back"
            raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, f"{sizes} (width x height); {hint}")
        if not self.resize_masks:
            text = f"{sizes} (width x height); pass --resize-masks to resize masks to the size of their images"
            raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, text)

    def write(self, image: Image.Image, path: Path) -> None:
        image.save(path)

    def load_preview(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(image) as pixels, Image.open(labels) as label_map:
            step = -(-max(pixels.size) // _MAX_PREVIEW_PIXELS)
            return np.asarray(pixels)[::step, ::step], np.asarray(label_map)[::step, ::step]


def _resize_labels(labels: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """A label map of another size, and a description of the labels that it lost."""
    resized = labels.resize(size, Image.Resampling.NEAREST)
    return resized, describe_lost_labels(np.asarray(labels), np.asarray(resized))


def _is_turned(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a mask has the shape of its image turned by 90 degrees, and not that of the image.

    >>> _is_turned((30, 40), (40, 30)), _is_turned((60, 80), (40, 30)), _is_turned((32, 32), (40, 30))
    (True, True, False)
    """
    mask_ratio, ratio = mask[0] / mask[1], image[0] / image[1]
    return abs(mask_ratio * ratio - 1) < _RATIO_TOLERANCE < abs(mask_ratio / ratio - 1)


def _without_metadata(image: Image.Image) -> Image.Image:
    """The pixels alone: Pillow would write a transparent colour, with which nnU-Net reads a fourth channel."""
    return Image.fromarray(np.asarray(image))
