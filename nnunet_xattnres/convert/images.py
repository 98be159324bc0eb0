"""2-D images and masks (png, jpg, bmp, tif; grey, RGB, palette, with alpha), written as 8-bit PNG."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from .case import CaseData, SourceCase
from .formats import IMAGE_ENDINGS
from .labels import MaskLabels, count_labels
from .problems import ProblemCode, UnusableError, format_size
from .sources import SourceFile

_LOSSY_ENDINGS = (".jpg", ".jpeg")
CHANNEL_NAMES = {1: ("grey",), 3: ("R", "G", "B")}
_CHANNELS_OF_MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}
_CHANNEL_TITLES = {1: "grey (1 channel)", 3: "RGB (3 channels)"}
_COLOUR_NOISE = 48  # largest difference between the channels of a grey mask that was saved as a colour JPEG
_BITS_PER_SAMPLE = 258  # the TIFF tag


@dataclass(frozen=True)
class ImageReader:
    """Reads images and masks; writes 8-bit PNG, which nnU-Net reads without loss.

    Attributes:
        mask_labels: the meaning of the values of the masks.
        channels: number of channels that every image must have: 1 (grey) or 3 (RGB).
        size: (height, width) to resize to, None keeps the size.
        resize_masks: resize a mask that differs in size from its image, instead of refusing it.
    """

    mask_labels: MaskLabels
    channels: int
    size: tuple[int, int] | None = None
    resize_masks: bool = False

    ending = ".png"

    def read(self, case: SourceCase) -> CaseData:
        (file,) = case.image
        image = decode(file)
        if count_channels(image) != self.channels:
            actual, expected = _CHANNEL_TITLES[count_channels(image)], _CHANNEL_TITLES[self.channels]
            text = f"the image is {actual}, expected {expected}; convert it first"
            raise UnusableError(file.name, ProblemCode.CHANNELS, text)
        pixels, changes = image.convert("L" if self.channels == 1 else "RGB"), []
        if image.mode in ("LA", "RGBA"):
            changes.append("alpha channel of the image removed")
        if file.ending in _LOSSY_ENDINGS:
            changes.append("image decoded from JPEG")
        labels = None
        if case.mask:
            labels, mask_changes = self._read_mask(case.mask[0], file, image.size)
            changes += mask_changes
        if self.size and (size := self.size[::-1]) != image.size:
            changes.append(f"resized from {format_size(image.size)} to {format_size(size)} (width x height)")
            pixels = pixels.resize(size, Image.Resampling.BILINEAR)
            labels = labels and labels.resize(size, Image.Resampling.NEAREST)
        return CaseData(pixels, labels, changes, count_labels(np.asarray(labels)) if labels else {})

    def _read_mask(self, file: SourceFile, image: SourceFile, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
        mask = decode(file)
        if mask.size != size and not self.resize_masks:
            sizes = f"the mask has {format_size(mask.size)} pixels, its image {image.name} {format_size(size)}"
            text = f"{sizes} (width x height); pass --resize-masks to resize masks to the size of their images"
            raise UnusableError(file.name, ProblemCode.SIZE_MISMATCH, text)
        values = mask_values(mask, file)
        labels, changes = self.mask_labels.apply(values, file.name, file.ending in _LOSSY_ENDINGS)
        label_map = Image.fromarray(labels)
        if mask.size != size:
            changes.append(f"mask resized from {format_size(mask.size)} to {format_size(size)} (width x height)")
            label_map = label_map.resize(size, Image.Resampling.NEAREST)
        return label_map, changes

    def write(self, image: Image.Image, path: Path) -> None:
        image.save(path)

    def load_preview(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(image) as pixels, Image.open(labels) as label_map:
            return np.asarray(pixels), np.asarray(label_map)


def decode(file: SourceFile) -> Image.Image:
    """Decode the whole image of a file.

    Raises:
        UnusableError: if the file is damaged, is not an image, or has several frames or more than 8 bits per channel.
    """
    data = file.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems that matter raise an exception
            image: Image.Image = Image.open(io.BytesIO(data))
            if image.format == "PNG":
                image.verify()  # compares checksums, which decoding does not
                image = Image.open(io.BytesIO(data))
            bits = bits_per_channel(image, data)
            if bits <= 8:
                image.load()
    except UnidentifiedImageError:
        text = f"the file is not an image that can be read; expected {', '.join(IMAGE_ENDINGS)}"
        raise UnusableError(file.name, ProblemCode.NOT_AN_IMAGE, text) from None
    except Image.DecompressionBombError as error:
        text = f"the image has too many pixels ({error}); reduce its size first"
        raise UnusableError(file.name, ProblemCode.TOO_LARGE, text) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        text = f"the file is damaged or truncated ({error}); copy or download it again"
        raise UnusableError(file.name, ProblemCode.DAMAGED, text) from None
    if bits > 8:
        text = f"the image has {bits} bits per channel, expected 8; save it with 8 bits"
        raise UnusableError(file.name, ProblemCode.BIT_DEPTH, text)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a photograph with a thumbnail
        text = f"the file has {frames} frames, expected 1; save them as separate files"
        raise UnusableError(file.name, ProblemCode.SEVERAL_FRAMES, text)
    if image.mode not in _CHANNELS_OF_MODES:
        text = f"the image has the colour mode {image.mode}, expected grey, RGB or a palette; convert it first"
        raise UnusableError(file.name, ProblemCode.COLOUR_MODE, text)
    return image


def bits_per_channel(image: Image.Image, data: bytes) -> int:
    """The bit depth that the file declares, because Pillow reads some 16-bit images as if they had 8 bits."""
    if image.format == "PNG":
        return data[24]  # the bit depth in the IHDR chunk
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return 8


def count_channels(image: Image.Image) -> int:
    """The number of channels without alpha; an image with a grey palette has 1."""
    if image.mode == "P":
        return 1 if _is_grey(np.asarray(image.convert("RGB"))) else 3
    return _CHANNELS_OF_MODES[image.mode]


def mask_values(mask: Image.Image, file: SourceFile) -> np.ndarray:
    """The values of a mask (H, W): its grey values, or the indices of a palette with colours.

    Raises:
        UnusableError: if the mask has colours but no palette.
    """
    if mask.mode == "P":
        colours = np.asarray(mask.convert("RGB"))
        return colours[..., 0] if _is_grey(colours) else np.asarray(mask)
    if mask.mode in ("1", "L"):
        return np.asarray(mask).astype(np.uint8)
    values = np.asarray(mask.convert("RGB"))
    if mask.mode in ("LA", "RGBA"):
        alpha = np.asarray(mask.getchannel("A"))
        if values.min() == values.max() and alpha.min() != alpha.max():
            return alpha  # the mask is drawn in one colour on a transparent background
    if not _is_grey(values, _COLOUR_NOISE if file.ending in _LOSSY_ENDINGS else 0):
        text = "the mask has colours; save it as grey values or with a palette, with one value per class"
        raise UnusableError(file.name, ProblemCode.MASK_COLOURS, text)
    return np.asarray(mask.convert("RGB").convert("L"))


def _is_grey(colours: np.ndarray, tolerance: int = 0) -> bool:
    """Whether the channels of an image (H, W, 3) differ by at most `tolerance`."""
    return int((colours.max(-1).astype(int) - colours.min(-1)).max()) <= tolerance
