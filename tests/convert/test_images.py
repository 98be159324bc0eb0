"""Pictures of every kind, decoded as another library does, and refused where 8 bits are not all."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import io as skio
from support import downloads

from nnunet_xattnres.convert.case import Case
from nnunet_xattnres.convert.images import PictureReader, count_channels, decode, mask_values
from nnunet_xattnres.convert.labels import BinaryMask
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import File

MASK = np.zeros((20, 30), bool)
MASK[4:16, 8:24] = True
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def file(path):
    return File(path.name, path)


@pytest.mark.parametrize("flavour", downloads.FLAVOURS)
def test_values_of_masks(tmp_path, flavour):
    path = tmp_path / f"m{downloads.ending(flavour)}"
    downloads.save_mask(MASK, path, flavour)
    values = mask_values(decode(file(path)), file(path))
    labels, _ = BinaryMask("polyp").apply(values, path.name, lossy=flavour.startswith("jpeg"))
    np.testing.assert_array_equal(labels, MASK)


def test_a_mask_drawn_in_alpha(tmp_path):
    Image.fromarray(np.dstack([np.full((20, 30, 3), 200, np.uint8), MASK * np.uint8(255)])).save(tmp_path / "m.png")
    values = mask_values(decode(file(tmp_path / "m.png")), file(tmp_path / "m.png"))
    np.testing.assert_array_equal(values, MASK * 255)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "jpg"])
def test_images_as_skimage_reads_them(tmp_path, ending):
    path = tmp_path / f"1.{ending}"
    Image.fromarray(RGB).save(path)
    content = PictureReader(BinaryMask("polyp"), 3).read(Case("1", "train", (file(path),)))
    np.testing.assert_array_equal(np.asarray(content.image), skio.imread(path))
    assert content.labels is None and content.counts == {}


def test_palettes_and_alpha(tmp_path):
    picture = Image.fromarray(RGB).quantize(16)
    picture.save(tmp_path / "p.png")
    opaque = Image.fromarray(np.dstack([RGB, np.full((20, 30), 255, np.uint8)]))
    opaque.save(tmp_path / "a.png")
    for name, expected in (("p.png", np.asarray(picture.convert("RGB"))), ("a.png", RGB)):
        content = PictureReader(BinaryMask("polyp"), 3).read(Case("1", "train", (file(tmp_path / name),)))
        np.testing.assert_array_equal(np.asarray(content.image), expected)
    assert count_channels(Image.fromarray(RGB[..., 0]).quantize(16)) == 1


def png_of_16_bits(path, channels):
    """Pillow cannot write RGB of 16 bits, and reads it as if it had 8."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(4 * 2 * channels) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("kind", ["grey", "RGB", "tif"])
def test_16_bits(tmp_path, kind):
    path = tmp_path / ("1.tif" if kind == "tif" else "1.png")
    if kind == "tif":
        tifffile.imwrite(path, np.zeros((4, 4), np.uint16))
    else:
        png_of_16_bits(path, 3 if kind == "RGB" else 1)
    with pytest.raises(UnusableError) as error:
        decode(file(path))
    assert "has 16 bits a channel where 8 were expected" in error.value.problem.text


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("kept", [0.9, 0.3])
def test_truncated(tmp_path, ending, kept):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, {"jpg": "JPEG"}.get(ending, ending))
    path = tmp_path / f"1.{ending}"
    path.write_bytes(buffer.getvalue()[: int(kept * len(buffer.getvalue()))])
    with pytest.raises(UnusableError) as error:
        decode(file(path))
    assert "truncated" in error.value.problem.text or "no picture" in error.value.problem.text
