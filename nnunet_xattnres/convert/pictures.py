"""Decoding of 2-D image files: upright, complete, and by their content instead of their name."""

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from .formats import IMAGE_ENDINGS
from .problems import ProblemCode, UnusableError
from .sources import SourceFile

CHANNELS_OF_MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}
"""The number of channels without alpha, by Pillow's mode."""

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM", "TGA")
_DEEP_MODES = {"I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
_BITS_PER_SAMPLE = 258  # the TIFF tag
_ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: the pixels, upright.
        bits: bits per channel in the file.
        orientation: EXIF's orientation, which is applied already; 1 is upright.
        lossy: whether the file has lossy compression.
    """

    image: Image.Image
    bits: int
    orientation: int = 1
    lossy: bool = False

    @property
    def turned(self) -> bool:
        """Whether the orientation exchanges width and height."""
        return self.orientation > 4


def decode(file: SourceFile) -> Picture:
    """Decode the whole image of a file.

    Raises:
        UnusableError: if the file is damaged, is not an image, or has several frames or more than 8 bits per channel.
    """
    return _decode(file, file.read(), deep=False)


def decode_mask(file: SourceFile) -> Picture:
    """Decode a mask; unlike an image, it may have one channel of 16-bit or 32-bit numbers.

    Raises:
        UnusableError: where `decode` raises it, or if the mask has values that are not finite.
    """
    data = file.read()
    try:
        picture = _decode(file, data, deep=True)
    except UnusableError as error:
        # TIFF has more types of numbers than Pillow reads
        image = _decode_with_tifffile(data) if data.startswith(_TIFF_STARTS) else None
        if image is None:
            raise error from None
        picture = Picture(image, 32)
    if picture.image.mode == "F" and not np.isfinite(np.asarray(picture.image)).all():
        text = "values are not finite (NaN or infinity); replace them first"
        raise UnusableError(file.name, ProblemCode.NOT_FINITE, text)
    return picture


def open_header(file: SourceFile) -> Picture:
    """Mode and bits of an image, without decoding it: the pixels may be damaged, and are not turned.

    Raises:
        UnusableError: if the file cannot be read, or is not an image.
    """
    with warnings.catch_warnings(), file.open() as opened:
        warnings.simplefilter("ignore")
        try:
            start = opened.read(32)
            opened.seek(0)
            image = Image.open(opened, formats=_formats())
            return Picture(image, _bits_per_channel(image, start))
        except UnusableError:
            raise
        except Exception:  # Pillow's readers raise exceptions of many kinds; decode tells them apart
            raise _not_an_image(file) from None


def count_channels(picture: Picture) -> int:
    """The number of channels without alpha; a decoded image with a grey palette has 1."""
    if picture.image.mode == "P":
        colours = np.asarray(picture.image.convert("RGB"))
        return 1 if (colours == colours[..., :1]).all() else 3
    return CHANNELS_OF_MODES[picture.image.mode]


def read_channels(file: SourceFile) -> int:
    """The number of channels of an image file, by its header where that tells.

    Raises:
        UnusableError: if the file cannot be read, or is neither grey nor RGB.
    """
    mode = open_header(file).image.mode
    return CHANNELS_OF_MODES[mode] if mode in CHANNELS_OF_MODES and mode != "P" else count_channels(decode(file))


@lru_cache
def _formats() -> tuple[str, ...]:
    """The formats that the installed Pillow reads."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode(file: SourceFile, data: bytes, deep: bool) -> Picture:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems that matter raise an exception
            image: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
            if image.format == "PNG":
                image.verify()  # compares checksums, which decoding does not
                image = Image.open(io.BytesIO(data), formats=_formats())
            bits, frames = _bits_per_channel(image, data), getattr(image, "n_frames", 1)
            orientation = _orientation(image)  # of TIFF, Pillow applies and removes it when it decodes
            readable = bits <= 8 or (deep and image.mode in _DEEP_MODES)
            if readable:
                image.load()
                image = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    except UnidentifiedImageError:
        raise _not_an_image(file) from None
    except Image.DecompressionBombError as error:
        text = f"the image has too many pixels ({error}); reduce its size first"
        raise UnusableError(file.name, ProblemCode.TOO_LARGE, text) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        text = f"the file is damaged or truncated ({error}); copy or download it again"
        raise UnusableError(file.name, ProblemCode.DAMAGED, text) from None
    if not readable:
        text = f"the image has {bits} bits per channel, expected 8; save it with 8 bits"
        raise UnusableError(file.name, ProblemCode.BIT_DEPTH, text)
    if frames > 1 and not _is_jpeg(data):  # a photograph with a thumbnail
        text = f"the file has {frames} frames, expected 1; save them as separate files"
        raise UnusableError(file.name, ProblemCode.SEVERAL_FRAMES, text)
    if image.mode not in CHANNELS_OF_MODES and not (deep and image.mode in _DEEP_MODES):
        text = f"the image has the colour mode {image.mode}, expected grey, RGB or a palette; convert it first"
        raise UnusableError(file.name, ProblemCode.COLOUR_MODE, text)
    return Picture(image, bits, orientation, _is_lossy(data))


def _decode_with_tifffile(data: bytes) -> Image.Image | None:
    """The numbers of a TIFF of one channel, None if it has several or cannot be read."""
    import tifffile

    try:
        array = tifffile.imread(io.BytesIO(data))
    except Exception:  # Pillow's message is reported
        return None
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        return None
    if array.dtype.kind == "f":
        return Image.fromarray(array.astype(np.float32))
    fits = np.iinfo(np.int32).min <= array.min() and array.max() <= np.iinfo(np.int32).max
    return Image.fromarray(array.astype(np.int32)) if fits else None


def _bits_per_channel(image: Image.Image, data: bytes) -> int:
    """The bit depth that the file declares, because Pillow reads some 16-bit images as if they had 8 bits."""
    if image.format == "PNG":
        return data[24]  # the bit depth in the IHDR chunk
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    return 1 if image.mode == "1" else _DEEP_MODES.get(image.mode, 8)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation from 1 to 8; 1 if there is none, or if it cannot be read, as viewers do."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF data raise exceptions of many kinds
        return 1
    return value if value in range(1, 9) else 1


def _is_lossy(data: bytes) -> bool:
    """Whether the content is JPEG, or WebP with lossy compression."""
    return _is_jpeg(data) or (data[8:12] == b"WEBP" and b"VP8 " in data[:4096])


def _is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8")


def _not_an_image(file: SourceFile) -> UnusableError:
    text = f"the file is not an image that can be read; expected {', '.join(IMAGE_ENDINGS)}"
    return UnusableError(file.name, ProblemCode.NOT_AN_IMAGE, text)
