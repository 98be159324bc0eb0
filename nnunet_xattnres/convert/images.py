"""2-D images and masks as they are found (png, jpg, bmp, tif; palette, grey, RGB, with alpha), as 8-bit PNG."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .case import Case, CaseData, count_labels
from .labels import BinaryMask, LabelMap
from .problems import UnusableError
from .sources import File

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LOSSY = (".jpg", ".jpeg")
CHANNEL_NAMES = {1: ("grey",), 3: ("R", "G", "B")}
_MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}
_KINDS = {1: "grey (1 channel)", 3: "RGB (3 channels)"}
_COLOUR_NOISE = 48  # between the channels of a grey mask that went through a colour JPEG
_BITS_PER_SAMPLE = 258  # the TIFF tag


@dataclass(frozen=True)
class PictureReader:
    """Reads pictures; writes 8-bit PNG, which nnU-Net reads without loss.

    Attributes:
        masks: what the values of the masks mean.
        channels: 1 (grey) or 3 (RGB): what every image must have.
        size: (height, width) to resize to, None keeps the size.
        resize_masks: bring a mask of another size to its image's.
    """

    masks: BinaryMask | LabelMap
    channels: int
    size: tuple[int, int] | None = None
    resize_masks: bool = False

    ending = ".png"

    def read(self, case: Case) -> CaseData:
        (file,) = case.image
        image = decode(file)
        if count_channels(image) != self.channels:
            came, expected = _KINDS[count_channels(image)], _KINDS[self.channels]
            raise UnusableError(file.name, f"is {came} where {expected} was expected: convert it first")
        pixels, changes = image.convert("L" if self.channels == 1 else "RGB"), []
        if image.mode in ("LA", "RGBA"):
            changes.append("alpha channel of the image left out")
        if file.ending in LOSSY:
            changes.append("image decoded from JPEG")
        labels = None
        if case.mask:
            labels, mask_changes = self._labels(case.mask[0], file, image.size)
            changes += mask_changes
        if self.size and (size := self.size[::-1]) != image.size:
            changes.append(f"resized from {_text(image.size)} to {_text(size)} (width x height)")
            pixels = pixels.resize(size, Image.Resampling.BILINEAR)
            labels = labels and labels.resize(size, Image.Resampling.NEAREST)
        return CaseData(pixels, labels, changes, count_labels(np.asarray(labels)) if labels else {})

    def _labels(self, file: File, image: File, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
        mask = decode(file)
        if mask.size != size and not self.resize_masks:
            sizes = f"is {_text(mask.size)}, its image {image.name} {_text(size)} (width x height)"
            raise UnusableError(file.name, f"{sizes}: pass --resize-masks to bring masks to their image's size")
        labels, changes = self.masks.apply(mask_values(mask, file), file.name, file.ending in LOSSY)
        picture = Image.fromarray(labels)
        if mask.size != size:
            changes.append(f"mask resized from {_text(mask.size)} to {_text(size)} (width x height)")
            picture = picture.resize(size, Image.Resampling.NEAREST)
        return picture, changes

    def write(self, content: Image.Image, path: Path) -> None:
        content.save(path)

    def show(self, image: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
        with Image.open(image) as picture, Image.open(labels) as label_map:
            return np.asarray(picture), np.asarray(label_map)


def decode(file: File) -> Image.Image:
    """The whole picture in a file.

    Raises:
        UnusableError: if it is damaged, no such picture, has several frames, or more than 8 bits a channel.
    """
    data = file.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised
            image = Image.open(io.BytesIO(data))
            if image.format == "PNG":
                image.verify()  # its checksums, which decoding does not look at
                image = Image.open(io.BytesIO(data))
            bits = bits_per_channel(image, data)
            if bits <= 8:
                image.load()
    except UnidentifiedImageError:
        raise UnusableError(file.name, f"is no picture that can be read; expected {', '.join(ENDINGS)}") from None
    except Image.DecompressionBombError as error:
        raise UnusableError(file.name, f"is too large ({error}): reduce it first") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnusableError(file.name, f"is damaged or truncated ({error}): copy or download it again") from None
    if bits > 8:
        raise UnusableError(file.name, f"has {bits} bits a channel where 8 were expected: save it with 8 bits")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photograph with its thumbnail
        raise UnusableError(file.name, f"has {image.n_frames} frames where one was expected: save them one by one")
    if image.mode not in _MODES:
        raise UnusableError(file.name, f"has the colour mode {image.mode}; expected grey, RGB or a palette")
    return image


def bits_per_channel(image: Image.Image, data: bytes) -> int:
    """As the file says: Pillow reads some 16-bit pictures as if they had 8."""
    if image.format == "PNG":
        return data[24]  # the bit depth in its header
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return 8


def count_channels(image: Image.Image) -> int:
    """Channels without alpha; a palette of greys is grey."""
    if image.mode == "P":
        return 1 if _is_grey(np.asarray(image.convert("RGB"))) else 3
    return _MODES[image.mode]


def mask_values(mask: Image.Image, file: File) -> np.ndarray:
    """A mask's values (H, W): grey values, or the indices of a coloured palette.

    Raises:
        UnusableError: if it is coloured otherwise.
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
            return alpha  # drawn in one colour on a transparent ground
    if not _is_grey(values, _COLOUR_NOISE if file.ending in LOSSY else 0):
        raise UnusableError(
            file.name, "is a mask in colours: save it as grey values or with a palette, one value a class"
        )
    return np.asarray(mask.convert("RGB").convert("L"))


def _is_grey(colours: np.ndarray, noise: int = 0) -> bool:
    return int((colours.max(-1).astype(int) - colours.min(-1)).max()) <= noise


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
