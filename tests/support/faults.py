"""Ways to break the cases of a source, and the problems that `xattnres convert` must report for them."""

import contextlib
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from . import downloads
from .label_maps import truncate

_RNG = np.random.default_rng(0)
GREY = _RNG.integers(0, 256, (32, 32), np.uint8)
RGB = _RNG.integers(0, 256, (32, 32, 3), np.uint8)
RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
DISC = downloads.discs((32, 32), np.random.default_rng(5))


class Fault(NamedTuple):
    """A fault of one case.

    Attributes:
        change: `change(source, n)` breaks the case n of a source with the folders images and masks.
        file: the file of the problem, with {n} for the case.
        code: the code of the problem.
        values: texts that the message must contain, with {n} for the case.
    """

    change: Callable[[Path, int], object]
    file: str
    code: str
    values: tuple[str, ...] = ()

    def expected(self, n: int) -> tuple[str, ...]:
        """The problem of case n, for `check_listed`."""
        return tuple(text.format(n=n) for text in (self.file, self.code, *self.values))


def parse_problem(line: str) -> tuple[str, str, str]:
    """File, code and text of a problem that is printed as FILE: CODE: TEXT."""
    file, code, text = line.strip().split(": ", 2)
    return file, code, text


def check_problems(problems: Iterable[tuple[str, str, str]], expected: Iterable[tuple[str, ...]]) -> None:
    """Check that these are exactly the expected problems.

    Args:
        problems: file, code and text of every problem.
        expected: file and code of every problem, and values that its text must contain.
    """
    problems, expected = sorted(problems), sorted(expected)
    assert [(file, code) for file, code, _ in problems] == [(file, code) for file, code, *_ in expected]
    for (file, code, text), (_, _, *values) in zip(problems, expected, strict=True):
        assert all(value in text for value in values), (file, code, text)


def check_listed(lines: list[str], expected: Iterable[tuple[str, ...]]) -> None:
    """Check that an error message lists exactly the expected problems, and names the option that skips them."""
    title, *problems = lines
    expected = list(expected)
    assert title.startswith(f"xattnres convert: {len(expected)} problem") and "--skip-bad" in title
    assert all(line.startswith("  ") for line in problems)
    check_problems(map(parse_problem, problems), expected)


# files


def image(source, n, ending="png"):
    return source / "images" / f"{n}.{ending}"


def mask(source, n, ending="png"):
    return source / "masks" / f"{n}.{ending}"


def change_byte(path):
    """Change a byte in the middle, as a bad copy does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def replace_by_dangling_link(path):
    path.unlink()
    path.symlink_to("nowhere.png")


# 2-D images


def save(array, path, **options):
    """Save an image instead of the PNG file with the same stem."""
    path.with_suffix(".png").unlink(missing_ok=True)
    Image.fromarray(array).save(path, **options)


def save_as(path, ending, mode=None, **options):
    """Save an image in another format, instead of the file."""
    other = path.with_suffix(f".{ending}")
    with Image.open(path) as picture:
        picture.convert(mode or picture.mode).save(other, **options)
    path.unlink()
    return other


def save_frames(path, count):
    """Save an image with several frames instead of the PNG file with the same stem."""
    frames = [Image.fromarray(_RNG.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]
    path.with_suffix(".png").unlink()
    frames[0].save(path, save_all=True, append_images=frames[1:])


def png(width, height, depth, colour_type, rows):
    """The bytes of a PNG file that Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


PNG_16_BIT_GREY = png(32, 32, 16, 0, (b"\0" + bytes(range(64))) * 32)
PNG_16_BIT_RGB = png(32, 32, 16, 2, (b"\0" + bytes(range(192))) * 32)


def change_bit_that_decodes(path):
    """Change a bit so that Pillow decodes another image of the same size; only the checksums tell."""

    def decode():
        with Image.open(path) as picture:
            return picture.tobytes(), picture.size

    data, (pixels, size) = path.read_bytes(), decode()
    for position in range(41, len(data) - 20):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            other_pixels, other_size = decode()
            if size == other_size and pixels != other_pixels:
                return
    raise AssertionError("no such bit")


IMAGE_FAULTS = {
    "truncated PNG": Fault(lambda s, n: truncate(image(s, n)), "images/{n}.png", "damaged"),
    "truncated PNG mask": Fault(lambda s, n: truncate(mask(s, n)), "masks/{n}.png", "damaged"),
    "truncated JPEG": Fault(lambda s, n: truncate(save_as(image(s, n), "jpg")), "images/{n}.jpg", "damaged"),
    "truncated BMP": Fault(lambda s, n: truncate(save_as(image(s, n), "bmp")), "images/{n}.bmp", "damaged"),
    "truncated TIFF": Fault(lambda s, n: truncate(save_as(image(s, n), "tif")), "images/{n}.tif", "damaged"),
    "PNG with another byte": Fault(lambda s, n: change_byte(image(s, n)), "images/{n}.png", "damaged"),
    "PNG mask with another bit": Fault(lambda s, n: change_bit_that_decodes(mask(s, n)), "masks/{n}.png", "damaged"),
    "text named .png": Fault(lambda s, n: image(s, n).write_text("hello"), "images/{n}.png", "not-an-image"),
    "empty file": Fault(lambda s, n: image(s, n).write_bytes(b""), "images/{n}.png", "not-an-image"),
    "empty mask file": Fault(lambda s, n: mask(s, n).write_bytes(b""), "masks/{n}.png", "not-an-image"),
    "dangling link": Fault(lambda s, n: replace_by_dangling_link(image(s, n)), "images/{n}.png", "unreadable"),
    "image without mask": Fault(lambda s, n: mask(s, n).unlink(), "images/{n}.png", "mask-missing"),
    "mask without image": Fault(lambda s, n: image(s, n).unlink(), "masks/{n}.png", "image-missing"),
    "mask of another size": Fault(
        lambda s, n: save(DISC[:20], mask(s, n)), "masks/{n}.png", "size-mismatch",
        ("32x20", "images/{n}.png", "32x32", "--resize-masks"),
    ),
    "mask rotated by 90 degrees": Fault(
        lambda s, n: (save(RGB[:20], image(s, n)), save(DISC[:, :20], mask(s, n))), "masks/{n}.png", "size-mismatch",
        ("20x32", "32x20"),
    ),
    "smeared mask": Fault(lambda s, n: save(RAMP, mask(s, n)), "masks/{n}.png", "smeared-mask"),
    "mask with values up to 76": Fault(
        lambda s, n: save(DISC * np.uint8(76), mask(s, n)), "masks/{n}.png", "mask-values", ("76", "--threshold")
    ),
    "faint JPEG mask": Fault(
        lambda s, n: save(DISC * np.uint8(1), mask(s, n, "jpg"), quality=90), "masks/{n}.jpg", "mask-values"
    ),
    "mask in colours": Fault(lambda s, n: save(RGB, mask(s, n)), "masks/{n}.png", "mask-colours"),
    "mask with a 16-bit value": Fault(
        lambda s, n: save(DISC * np.uint16(300), mask(s, n)), "masks/{n}.png", "mask-values", ("300",)
    ),
    "one stem, two images": Fault(
        lambda s, n: shutil.copy(image(s, n), image(s, n, "jpg")), "images/{n}.jpg", "duplicate", ("images/{n}.png",)
    ),
    "one stem, two masks": Fault(
        lambda s, n: shutil.copy(mask(s, n), mask(s, n, "bmp")), "masks/{n}.bmp", "duplicate", ("masks/{n}.png",)
    ),
    "grey among RGB": Fault(lambda s, n: save(GREY, image(s, n)), "images/{n}.png", "channels"),
    "16-bit grey PNG": Fault(
        lambda s, n: image(s, n).write_bytes(PNG_16_BIT_GREY), "images/{n}.png", "bit-depth", ("16",)
    ),
    "16-bit RGB PNG": Fault(
        lambda s, n: image(s, n).write_bytes(PNG_16_BIT_RGB), "images/{n}.png", "bit-depth", ("16",)
    ),
    "16-bit TIFF": Fault(
        lambda s, n: save(GREY * np.uint16(200), image(s, n, "tif")), "images/{n}.tif", "bit-depth", ("16",)
    ),
    "TIFF of floats": Fault(
        lambda s, n: save(GREY / np.float32(255), image(s, n, "tif")), "images/{n}.tif", "bit-depth", ("32",)
    ),
    "TIFF of three pages": Fault(
        lambda s, n: save_frames(image(s, n, "tif"), 3), "images/{n}.tif", "several-frames", ("3",)
    ),
    "animated PNG": Fault(lambda s, n: save_frames(image(s, n), 2), "images/{n}.png", "several-frames", ("2",)),
    "CMYK": Fault(
        lambda s, n: save_as(image(s, n), "jpg", "CMYK"), "images/{n}.jpg", "colour-mode", ("CMYK",)
    ),
    "decompression bomb": Fault(
        lambda s, n: image(s, n).write_bytes(png(30000, 30000, 1, 0, b"")), "images/{n}.png", "too-large"
    ),
    "mask with an unknown ending": Fault(
        lambda s, n: mask(s, n).rename(mask(s, n, "xcf")), "masks/{n}.xcf", "ending", (".xcf", ".png")
    ),
}  # fmt: skip
"""Faults of the cases of `downloads.nuclei`."""


# volumes


GZ = "nii.gz"


def edit_volume(path, change):
    """Write what `change(volume, its array)` returns, a volume or an array."""
    volume = sitk.ReadImage(path)
    changed = change(volume, sitk.GetArrayFromImage(volume))
    if isinstance(changed, np.ndarray):
        changed, array = sitk.GetImageFromArray(changed), changed
        if array.ndim == 3:
            changed.CopyInformation(volume)
    sitk.WriteImage(changed, path)


def set_geometry(path, **values):
    """Set Origin, Spacing or Direction of a volume."""

    def change(volume, array):
        for name, value in values.items():
            getattr(volume, f"Set{name}")(value)
        return volume

    edit_volume(path, change)


def set_voxel(path, value, dtype):
    """Set one voxel of a volume, which gets this type."""

    def change(volume, array):
        array = array.astype(dtype)
        array[2, 3, 4] = value
        return array

    edit_volume(path, change)


def uncompress(path):
    """Save a .nii.gz file as .nii instead."""
    other = path.with_name(path.name.removesuffix(".gz"))
    sitk.WriteImage(sitk.ReadImage(path), other)
    path.unlink()
    return other


def _with_three_channels(volume, array):
    vector = sitk.GetImageFromArray(np.stack([array] * 3, -1), isVector=True)
    vector.CopyInformation(volume)
    return vector


_IMAGE, _MASK = "images/{n}.nii.gz", "masks/{n}.nii.gz"
VOLUME_FAULTS = {
    "truncated .nii.gz": Fault(lambda s, n: truncate(image(s, n, GZ)), _IMAGE, "damaged"),
    "truncated .nii.gz mask": Fault(lambda s, n: truncate(mask(s, n, GZ)), _MASK, "damaged"),
    "truncated .nii": Fault(lambda s, n: truncate(uncompress(image(s, n, GZ))), "images/{n}.nii", "damaged"),
    ".nii.gz with another byte": Fault(lambda s, n: change_byte(image(s, n, GZ)), _IMAGE, "damaged"),
    "text named .nii.gz": Fault(lambda s, n: image(s, n, GZ).write_text("hello"), _IMAGE, "damaged"),
    "text named .nii": Fault(
        lambda s, n: uncompress(image(s, n, GZ)).write_text("hello" * 200), "images/{n}.nii", "damaged"
    ),
    "empty .nii.gz": Fault(lambda s, n: image(s, n, GZ).write_bytes(b""), _IMAGE, "damaged"),
    "mask of another size": Fault(
        lambda s, n: edit_volume(mask(s, n, GZ), lambda v, a: v[:, :, :4]), _MASK, "size-mismatch",
        ("16x14x4", _IMAGE, "16x14x6"),
    ),
    "mask with another origin": Fault(
        lambda s, n: set_geometry(mask(s, n, GZ), Origin=(0, 0, 0)), _MASK, "geometry-mismatch", (_IMAGE,)
    ),
    "mask with another spacing": Fault(
        lambda s, n: set_geometry(mask(s, n, GZ), Spacing=(1, 1, 3)), _MASK, "geometry-mismatch", (_IMAGE,)
    ),
    "mask with another direction": Fault(
        lambda s, n: set_geometry(mask(s, n, GZ), Direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), _MASK, "geometry-mismatch",
        (_IMAGE,),
    ),
    "4-D": Fault(
        lambda s, n: edit_volume(image(s, n, GZ), lambda v, a: sitk.JoinSeries([v, v])), _IMAGE, "dimensions", ("4-D",)
    ),
    "2-D": Fault(
        lambda s, n: edit_volume(image(s, n, GZ), lambda v, a: v[:, :, 0]), _IMAGE, "dimensions", ("2-D",)
    ),
    "three channels": Fault(
        lambda s, n: edit_volume(image(s, n, GZ), _with_three_channels), _IMAGE, "dimensions", ("3 channels",)
    ),
    "NaN": Fault(lambda s, n: set_voxel(image(s, n, GZ), np.nan, np.float32), _IMAGE, "not-finite"),
    "infinity": Fault(lambda s, n: set_voxel(image(s, n, GZ), np.inf, np.float32), _IMAGE, "not-finite"),
    "NaN in the mask": Fault(lambda s, n: set_voxel(mask(s, n, GZ), np.nan, np.float32), _MASK, "not-finite"),
    "mask of halves": Fault(lambda s, n: set_voxel(mask(s, n, GZ), 0.5, np.float32), _MASK, "mask-values", ("0.5",)),
    "negative mask": Fault(lambda s, n: set_voxel(mask(s, n, GZ), -1, np.int16), _MASK, "mask-values", ("-1",)),
    "mask above 255": Fault(lambda s, n: set_voxel(mask(s, n, GZ), 300, np.int16), _MASK, "mask-values", ("300",)),
    "one stem, two volumes": Fault(
        lambda s, n: sitk.WriteImage(sitk.ReadImage(image(s, n, GZ)), image(s, n, "nii")), "images/{n}.nii",
        "duplicate", (_IMAGE,),
    ),
}  # fmt: skip
"""Faults of the cases of `downloads.scans`."""
