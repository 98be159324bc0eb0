"""Whatever is wrong with a source or the command line is said, nothing is written, and the source stays as it was."""

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from support import downloads
from support.trees import snapshot

from nnunet_xattnres.cli.main import main

ID = ("--dataset-id", "7", "--name", "Faulty")
DATASET = "Dataset007_Faulty"
NOISE = np.random.default_rng(0)


class Fault(NamedTuple):
    """A change of case n of a folder, and what is said of which file."""

    change: Callable[[Path, int], object]
    file: str
    phrase: str
    options: tuple[str, ...] = ()


def run(*arguments) -> int:
    """The exit code of `xattnres convert`, argparse's too."""
    try:
        return main(["convert", *map(str, arguments), "--workers", "1"])
    except SystemExit as error:
        return error.code


@pytest.fixture
def refused(folders, tmp_path, capsys):
    """Run a command that must leave everything as it is; returns the lines on stderr."""

    def run_refused(*arguments, code=2) -> list[str]:
        before = snapshot(tmp_path, folders["nnUNet_raw"])
        assert run(*arguments) == code
        assert snapshot(tmp_path, folders["nnUNet_raw"]) == before
        out, err = capsys.readouterr()
        assert not out and "Traceback" not in err
        return err.splitlines()

    return run_refused


def check_listed(lines, expected):
    """The list has these files with these phrases, and nothing else."""
    count = len(expected)
    assert lines[0].startswith(f"xattnres convert: {count} problem{'s' * (count > 1)} with ")
    assert "nothing was written" in lines[0] and "--skip-bad" in lines[0]
    assert len(lines) == 1 + count
    left = lines[1:]
    for file, phrase in expected:
        (line,) = [line for line in left if line.startswith(f"  {file}: ") and phrase in line]
        left.remove(line)


# pictures


def image(source, n, ending="png"):
    return source / "images" / f"{n}.{ending}"


def mask(source, n, ending="png"):
    return source / "masks" / f"{n}.{ending}"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resave(path, ending, **options):
    """The picture under another ending instead."""
    other = path.with_suffix(f".{ending}")
    with Image.open(path) as picture:
        picture.save(other, **options)
    path.unlink()
    return other


def save(array, path, **options):
    Image.fromarray(array).save(path, **options)


def instead(array, path, **options):
    """Another picture in place of the PNG of this name."""
    path.with_suffix(".png").unlink()
    save(array, path, **options)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flip(path):
    """Another byte in the middle, as a bad copy has it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def flip_where_it_decodes(path):
    """Another bit that Pillow takes for another picture: only the checksums tell."""
    data, (good, size) = path.read_bytes(), pixels(path)
    for position in range(41, len(data) - 20):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            other, other_size = pixels(path)
            if size == other_size and good != other:
                return
    raise AssertionError("no such bit")


def pixels(path):
    with Image.open(path) as picture:
        return picture.tobytes(), picture.size


def frames(path, count, **options):
    pictures = [Image.fromarray(NOISE.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]
    path.with_suffix(".png").unlink()
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)


def cmyk(path):
    with Image.open(path) as picture:
        picture.convert("CMYK").save(path.with_suffix(".jpg"))
    path.unlink()


def rename_case(source, n, name):
    for path in (image(source, n), mask(source, n)):
        path.rename(path.with_stem(name))


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.png")


GREY = NOISE.integers(0, 256, (32, 32), np.uint8)
RGB = NOISE.integers(0, 256, (32, 32, 3), np.uint8)
RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
DISC = downloads._discs((32, 32), np.random.default_rng(5))

PICTURES = {
    "truncated PNG": Fault(lambda s, n: cut(image(s, n)), "images/{n}.png", "is damaged or truncated"),
    "truncated PNG mask": Fault(lambda s, n: cut(mask(s, n)), "masks/{n}.png", "is damaged or truncated"),
    "truncated JPEG": Fault(lambda s, n: cut(resave(image(s, n), "jpg")), "images/{n}.jpg", "truncated"),
    "truncated BMP": Fault(lambda s, n: cut(resave(image(s, n), "bmp")), "images/{n}.bmp", "truncated"),
    "truncated TIFF": Fault(lambda s, n: cut(resave(image(s, n), "tif")), "images/{n}.tif", "is damaged or truncated"),
    "PNG with another byte": Fault(lambda s, n: flip(image(s, n)), "images/{n}.png", "is damaged or truncated"),
    "text named .png": Fault(lambda s, n: image(s, n).write_text("hello"), "images/{n}.png", "is no picture"),
    "empty file": Fault(lambda s, n: image(s, n).write_bytes(b""), "images/{n}.png", "is no picture"),
    "empty mask file": Fault(lambda s, n: mask(s, n).write_bytes(b""), "masks/{n}.png", "is no picture"),
    "dangling link": Fault(lambda s, n: dangling(image(s, n)), "images/{n}.png", "No such file"),
    "image without mask": Fault(lambda s, n: mask(s, n).unlink(), "images/{n}.png", "an image without a mask"),
    "mask without image": Fault(lambda s, n: image(s, n).unlink(), "masks/{n}.png", "a mask without an image"),
    "mask of another size": Fault(
        lambda s, n: save(DISC[:20], mask(s, n)), "masks/{n}.png", "is 32x20, its image images/{n}.png 32x32 (width"
    ),
    "mask turned by 90 degrees": Fault(
        lambda s, n: (save(RGB[:20], image(s, n)), save(DISC[:, :20], mask(s, n))), "masks/{n}.png", "is 20x32, its"
    ),
    "smeared mask": Fault(lambda s, n: save(RAMP, mask(s, n)), "masks/{n}.png", "% of its pixels lie between 64 and"),
    "mask with values up to 76": Fault(
        lambda s, n: save(DISC * np.uint8(76), mask(s, n)), "masks/{n}.png", "its values go up to 76"
    ),
    "mask in colours": Fault(lambda s, n: save(RGB, mask(s, n)), "masks/{n}.png", "is a mask in colours"),
    "mask with a 16-bit value": Fault(
        lambda s, n: save(DISC * np.uint16(300), mask(s, n)), "masks/{n}.png", "has 16 bits a channel"
    ),
    "one stem, two images": Fault(
        lambda s, n: shutil.copy(image(s, n), image(s, n, "jpg")), "images/{n}.jpg", "as images/{n}.png does"
    ),
    "one stem, two masks": Fault(
        lambda s, n: shutil.copy(mask(s, n), mask(s, n, "bmp")), "masks/{n}.bmp", "as masks/{n}.png does"
    ),
    "grey among RGB": Fault(lambda s, n: save(GREY, image(s, n)), "images/{n}.png", "is grey (1 channel) where RGB"),
    "16-bit grey PNG": Fault(
        lambda s, n: save(GREY * np.uint16(200), image(s, n)), "images/{n}.png", "has 16 bits a channel"
    ),
    "16-bit RGB PNG": Fault(
        lambda s, n: image(s, n).write_bytes(png(32, 32, 16, 2, (b"\0" + bytes(range(192))) * 32)),
        "images/{n}.png", "has 16 bits a channel",
    ),
    "16-bit TIFF": Fault(
        lambda s, n: instead(GREY * np.uint16(200), image(s, n, "tif")), "images/{n}.tif", "has 16 bits a channel"
    ),
    "TIFF of floats": Fault(
        lambda s, n: instead(GREY / np.float32(255), image(s, n, "tif")), "images/{n}.tif", "has 32 bits a channel"
    ),
    "TIFF of three pages": Fault(lambda s, n: frames(image(s, n, "tif"), 3), "images/{n}.tif", "has 3 frames"),
    "animated PNG": Fault(lambda s, n: frames(image(s, n, "png"), 2), "images/{n}.png", "has 2 frames"),
    "CMYK": Fault(lambda s, n: cmyk(image(s, n)), "images/{n}.jpg", "has the colour mode CMYK"),
    "decompression bomb": Fault(
        lambda s, n: image(s, n).write_bytes(png(30000, 30000, 1, 0, b"")), "images/{n}.png", "exceeds limit"
    ),
    "name that is no case's": Fault(
        lambda s, n: rename_case(s, n, f"{n}:a"), "images/{n}:a.png", "its name cannot be a case's name"
    ),
}  # fmt: skip
ALONE = {
    "PNG mask with another bit": Fault(
        lambda s, n: flip_where_it_decodes(mask(s, n)), "masks/{n}.png", "is damaged or truncated"
    ),
    "JPEG-smeared label map": Fault(
        lambda s, n: resave(mask(s, n), "jpg", quality=60), "masks/{n}.jpg", "JPEG has smeared it",
        ("--labels", "255=nucleus", "128=cell"),
    ),
    "value not in the label map": Fault(
        lambda s, n: save(DISC * np.uint8(7), mask(s, n)), "masks/{n}.png",
        "has the values 7; the label map knows 0, 255", ("--labels", "255=nucleus"),
    ),
    "RGB images with --channels grey": Fault(
        lambda s, n: [save(GREY, image(s, k)) for k in range(1, 7) if k != n], "images/{n}.png", "is RGB (3 channels)",
        ("--channels", "grey"),
    ),
    "case that is not in the split file": Fault(
        lambda s, n: split_file(s, [f"{k},train" for k in range(1, 7) if k != n]), "images/{n}.png",
        "is not in the split file", ("--split", "split.csv"),
    ),
    "case of the split file that is not there": Fault(
        lambda s, n: split_file(s, [f"{k},train" for k in range(1, 8)]), "split.csv", "names 7, which is not there",
        ("--split", "split.csv"),
    ),
}  # fmt: skip


def split_file(source, lines):
    (source.parent / "split.csv").write_text("\n".join(["case,split", *lines]) + "\n")


@pytest.mark.parametrize("name", PICTURES | ALONE)
def test_picture(refused, tmp_path, monkeypatch, name):
    change, file, phrase, options = (PICTURES | ALONE)[name]
    source = downloads.nuclei(tmp_path, 6)
    change(source, 3)
    monkeypatch.chdir(tmp_path)
    lines = refused("folder", source, *ID, *options)
    check_listed(lines, [(file.format(n=3), phrase.format(n=3))])


@pytest.mark.parametrize("kind", ["a value twice", "background", "no foreground", "form", "with threshold"])
def test_labels_option(refused, tmp_path, kind):
    labels, phrase = {
        "a value twice": (["1=cell", "1=nucleus"], "--labels names a value twice"),
        "background": (["0=cell", "1=nucleus"], "nnU-Net's 0 is the background, got 0=cell"),
        "no foreground": (["0=background"], "--labels names no foreground"),
        "form": (["cell=1"], "expected VALUE=NAME such as 255=nucleus, got 'cell=1'"),
        "with threshold": (["1=cell", "--threshold", "3"], "--threshold is for masks of one class"),
    }[kind]
    lines = refused("folder", downloads.nuclei(tmp_path, 6), *ID, "--labels", *labels)
    assert phrase in lines[-1]


@pytest.mark.parametrize(("value", "quality"), [(1, 90), (5, 75), (40, 75)])
def test_a_faint_mask_in_jpeg_is_not_lost(refused, tmp_path, value, quality):
    """JPEG leaves up to 2 of 0 and 1: neither a mask of 0/255 nor an empty one."""
    source = downloads.nuclei(tmp_path, 6)
    disc = downloads._discs((64, 64), np.random.default_rng(5))
    instead(np.dstack([disc * np.uint8(100)] * 3), image(source, 3, "png"))
    instead(disc * np.uint8(value), mask(source, 3, "jpg"), quality=quality)
    with Image.open(mask(source, 3, "jpg")) as picture:
        assert 1 < np.asarray(picture).max() < 60
    check_listed(refused("folder", source, *ID), [("masks/3.jpg", "its values go up to")])


# volumes


def volumes(root, ending="nii.gz"):
    source = root / "scans"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    for n in range(1, 6):
        hu, label = downloads._abdomen((6, 14, 16), n)
        downloads._write_volume(hu, image(source, n, ending), 1)
        downloads._write_volume((label > 0).astype(np.uint8), mask(source, n, ending), 1)
    return source


def edit(path, change):
    """Write what `change` makes of a volume and its values."""
    volume = sitk.ReadImage(path)
    changed = change(volume, sitk.GetArrayFromImage(volume))
    if isinstance(changed, np.ndarray):
        changed, array = sitk.GetImageFromArray(changed), changed
        if array.ndim == 3:
            changed.CopyInformation(volume)
    sitk.WriteImage(changed, path)


def moved(path, **values):
    def change(volume, array):
        for name, value in values.items():
            getattr(volume, f"Set{name}")(value)
        return volume

    edit(path, change)


def uncompressed(path):
    other = path.with_name(path.name.removesuffix(".gz"))
    sitk.WriteImage(sitk.ReadImage(path), other)
    path.unlink()
    return other


def with_value(value, dtype):
    def change(volume, array):
        array = array.astype(dtype)
        array[2, 3, 4] = value
        return array

    return change


def _vector(volume, array):
    vector = sitk.GetImageFromArray(np.stack([array] * 3, -1), isVector=True)
    vector.CopyInformation(volume)
    return vector


GZ = "nii.gz"
ELSEWHERE = "does not lie where its image images/{n}.nii.gz lies"
VOLUMES = {
    "truncated .nii.gz": Fault(lambda s, n: cut(image(s, n, GZ)), "images/{n}.nii.gz", "truncated or damaged"),
    "truncated .nii.gz mask": Fault(lambda s, n: cut(mask(s, n, GZ)), "masks/{n}.nii.gz", "truncated or damaged"),
    "truncated .nii": Fault(lambda s, n: cut(uncompressed(image(s, n, GZ))), "images/{n}.nii", "truncated: "),
    "another byte in .nii.gz": Fault(lambda s, n: flip(image(s, n, GZ)), "images/{n}.nii.gz", "damaged"),
    "text named .nii.gz": Fault(lambda s, n: image(s, n, GZ).write_text("hello"), "images/{n}.nii.gz", "damaged"),
    "text named .nii": Fault(
        lambda s, n: uncompressed(image(s, n, GZ)).write_text("hello" * 200), "images/{n}.nii", "not a NIfTI file"
    ),
    "empty .nii.gz": Fault(lambda s, n: image(s, n, GZ).write_bytes(b""), "images/{n}.nii.gz", "not a NIfTI file"),
    "label of another size": Fault(
        lambda s, n: edit(mask(s, n, GZ), lambda v, a: v[:, :, :4]), "masks/{n}.nii.gz",
        "sizes differ: 16x14x4 voxels, its image images/{n}.nii.gz 16x14x6 (x, y, z)",
    ),
    "label with another origin": Fault(
        lambda s, n: moved(mask(s, n, GZ), Origin=(0, 0, 0)), "masks/{n}.nii.gz", ELSEWHERE
    ),
    "label with another spacing": Fault(
        lambda s, n: moved(mask(s, n, GZ), Spacing=(1, 1, 3)), "masks/{n}.nii.gz", ELSEWHERE
    ),
    "label with another direction": Fault(
        lambda s, n: moved(mask(s, n, GZ), Direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), "masks/{n}.nii.gz", ELSEWHERE
    ),
    "4-D": Fault(
        lambda s, n: edit(image(s, n, GZ), lambda v, a: sitk.JoinSeries([v, v])), "images/{n}.nii.gz",
        "is 4-D with 1 channel",
    ),
    "2-D": Fault(
        lambda s, n: edit(image(s, n, GZ), lambda v, a: v[:, :, 0]), "images/{n}.nii.gz", "is 2-D with 1 channel"
    ),
    "three channels": Fault(lambda s, n: edit(image(s, n, GZ), _vector), "images/{n}.nii.gz", "is 3-D with 3 channels"),
    "NaN": Fault(
        lambda s, n: edit(image(s, n, GZ), with_value(np.nan, np.float32)), "images/{n}.nii.gz", "not finite (NaN)"
    ),
    "infinity": Fault(
        lambda s, n: edit(image(s, n, GZ), with_value(np.inf, np.float32)), "images/{n}.nii.gz", "not finite"
    ),
    "NaN in the label": Fault(
        lambda s, n: edit(mask(s, n, GZ), with_value(np.nan, np.float32)), "masks/{n}.nii.gz", "not finite"
    ),
    "label of halves": Fault(
        lambda s, n: edit(mask(s, n, GZ), with_value(0.5, np.float32)), "masks/{n}.nii.gz", "values such as 0.5"
    ),
    "negative label": Fault(
        lambda s, n: edit(mask(s, n, GZ), with_value(-1, np.int16)), "masks/{n}.nii.gz", "values such as -1"
    ),
    "label above 255": Fault(
        lambda s, n: edit(mask(s, n, GZ), with_value(300, np.int16)), "masks/{n}.nii.gz", "go up to 300"
    ),
    "one stem, two volumes": Fault(
        lambda s, n: sitk.WriteImage(sitk.ReadImage(image(s, n, GZ)), image(s, n, "nii")), "images/{n}.nii",
        "as images/{n}.nii.gz does",
    ),
    "value not in the label map": Fault(
        lambda s, n: edit(mask(s, n, GZ), with_value(3, np.uint8)), "masks/{n}.nii.gz",
        "has the values 3; the label map knows 0, 1", ("--labels", "1=organ"),
    ),
    "fraction in a label map": Fault(
        lambda s, n: edit(mask(s, n, GZ), with_value(0.25, np.float32)), "masks/{n}.nii.gz", "has the values 0.25",
        ("--labels", "1=organ"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VOLUMES)
def test_volume(refused, tmp_path, name):
    change, file, phrase, options = VOLUMES[name]
    source = volumes(tmp_path)
    change(source, 3)
    check_listed(refused("folder", source, *ID, *options), [(file.format(n=3), phrase.format(n=3))])


def test_pictures_and_volumes(refused, tmp_path):
    source = volumes(tmp_path)
    save(RGB, image(source, 9))
    save(DISC, mask(source, 9))
    (line,) = refused("folder", source, *ID)
    assert "the source has pictures and volumes" in line


# the published data sets


def arrays(root, order="transunet"):
    """Three of TransUNet's cases: one of 88 slices and two volumes."""
    slices, whole = root / "Synapse" / "train_npz", root / "Synapse" / "test_vol_h5"
    for folder in (slices, whole):
        folder.mkdir(parents=True)
    for k, (values, label) in enumerate(zip(*downloads._preprocessed(88, 27, order), strict=True)):
        np.savez(slices / f"case0027_slice{k:03d}.npz", image=values, label=label)
    for n in (1, 2):
        with h5py.File(whole / f"case{n:04d}.npy.h5", "w") as file:
            file["image"], file["label"] = downloads._preprocessed(6, n, order)
    return root / "Synapse"


SLICE = "train_npz/case0027_slice057.npz"
VOLUME = "test_vol_h5/case0002.npy.h5"


def npz(source, **changes):
    with np.load(source / SLICE) as file:
        content = dict(file)
    for key, change in changes.items():
        changed = change(content.pop(key))
        if changed is not None:
            content[key] = changed
    np.savez(source / SLICE, **content)


def beyond(values):
    values[3, 3] = 1.5
    return values


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(source):
    payload = np.array([Payload(source.parent / "executed")], dtype=object)
    np.savez(source / SLICE, image=payload, label=payload)


ARRAYS = {
    "missing slice": (lambda s: (s / SLICE).unlink(), "case0027", "1 of its slices are not there: 057"),
    "slice twice": (
        lambda s: [(s / "more").mkdir(), shutil.copy(s / SLICE, s / "more")], SLICE,
        "is the same slice as more/case0027_slice057.npz",
    ),
    "npz without label": (
        lambda s: npz(s, label=lambda v: None), SLICE, "cannot be read as arrays `image` and `label`"
    ),
    "npz with a pickle": (pickled, SLICE, "cannot be read as arrays"),
    "npz truncated": (lambda s: cut(s / SLICE), SLICE, "cannot be read as arrays"),
    "npz beyond 0..1": (lambda s: npz(s, image=beyond), SLICE, "beyond 0..1"),
    "npz with NaN": (lambda s: npz(s, image=lambda v: v * np.nan), SLICE, "not finite"),
    "npz with labels of 1.5": (lambda s: npz(s, label=beyond), SLICE, "has the values 1.5"),
    "npz of another size": (
        lambda s: npz(s, image=lambda v: v[1:], label=lambda v: v[1:]), SLICE, "sizes differ within the case: 15x16",
    ),
    "npz whose arrays differ": (lambda s: npz(s, image=lambda v: v[1:]), SLICE, "image 15x16, label 16x16"),
    "h5 truncated": (lambda s: cut(s / VOLUME), VOLUME, "cannot be read as arrays"),
    "h5 as text": (lambda s: (s / VOLUME).write_text("hello"), VOLUME, "cannot be read as arrays"),
    "case as slices and volume": (
        lambda s: shutil.copy(s / VOLUME, s / "test_vol_h5" / "case0027.npy.h5"), "test_vol_h5/case0027.npy.h5",
        "is there as slices, too",
    ),
    "case that is not on the list": (
        lambda s: shutil.copy(s / VOLUME, s / "test_vol_h5" / "case0077.npy.h5"), "case0077", "is not one of the 30",
    ),
}  # fmt: skip
TRANSUNET = ("--source-labels", "transunet")
OTHERS_27 = ("the source", "27 of the 30 cases on the list are not there")


@pytest.mark.parametrize("name", ARRAYS)
def test_transunet_arrays(refused, tmp_path, name):
    change, file, phrase = ARRAYS[name]
    source = arrays(tmp_path)
    change(source)
    check_listed(refused("synapse", source, *ID, *TRANSUNET), [(file, phrase), OTHERS_27])


@pytest.mark.parametrize(
    ("order", "said"), [("paper", "transunet"), ("transunet", "paper"), ("transunet", "btcv --organs 13")]
)
def test_other_source_labels(refused, tmp_path, order, said):
    lines = refused("synapse", arrays(tmp_path, order), *ID, "--source-labels", *said.split())
    (line,) = [line for line in lines if "largest organ" in line]
    assert "not the liver" in line and "--source-labels" in line


def btcv_with(change):
    def build(root):
        source = downloads.btcv(root, (1, 5), unlabelled=False)
        change(source / "Training")
        return ["synapse", source]

    return build


def colondb_with(change):
    def build(root):
        source = downloads.colondb(root, range(1, 8))
        change(source)
        return ["colondb", source]

    return build


def isic_with(change):
    def build(root):
        source = downloads.isic2017(root)
        change(source)
        return ["isic2017", source]

    return build


def both_numbers(source):
    for folder in ("images", "masks"):
        shutil.copy(source / folder / "1.png", source / folder / "001.png")


def homeless(source):
    (source / "others").mkdir()
    for path in sorted(source.rglob("ISIC_0000001*")):
        path.rename(source / "others" / path.name)


OTHERS_28 = ("the source", "28 of the 30 cases on the list are not there")
FRAMES = ("the source", "of the 379 frames on the published list are not there: ")
PUBLISHED = {
    "BTCV label 14": (
        btcv_with(lambda s: edit(s / "label" / "label0005.nii.gz", with_value(14, np.uint8))),
        [("Training/label/label0005.nii.gz", "has the values 14; the label map knows 0, 1, 2"), OTHERS_28],
    ),
    "BTCV label elsewhere": (
        btcv_with(lambda s: moved(s / "label" / "label0005.nii.gz", Origin=(1, 2, 3))),
        [("Training/label/label0005.nii.gz", "does not lie where its image Training/img/img0005.nii.gz"), OTHERS_28],
    ),
    "BTCV without a label": (
        btcv_with(lambda s: (s / "label" / "label0005.nii.gz").unlink()),
        [("Training/img/img0005.nii.gz", "an image without a mask"), OTHERS_28],
    ),
    "BTCV truncated": (
        btcv_with(lambda s: cut(s / "img" / "img0001.nii.gz")),
        [("Training/img/img0001.nii.gz", "truncated or damaged"), OTHERS_28],
    ),
    "missing frames": (
        lambda root: ["colondb", downloads.colondb(root, range(1, 375))],
        [("the source", "5 of the 379 frames on the published list are not there: 375, 376, 377, 378, 379")],
    ),
    "frame 1 and 001": (
        colondb_with(both_numbers),
        [("images/001.png", "as images/1.png does"), ("masks/001.png", "as masks/1.png does"), FRAMES],
    ),
    "frame without mask": (
        colondb_with(lambda s: (s / "masks" / "4.png").unlink()), [("images/4.png", "an image without a mask"), FRAMES]
    ),
    "training images without masks": (
        isic_with(lambda s: shutil.rmtree(s / "ISIC-2017_Training_Part1_GroundTruth")),
        [("ISIC-2017_Training_Data", "none of the 6 train images has a mask: fetch its Part1_GroundTruth")],
    ),
    "validation image without mask": (
        isic_with(lambda s: next((s / "ISIC-2017_Validation_Part1_GroundTruth").iterdir()).unlink()),
        [("ISIC-2017_Validation_Data/ISIC_", "an image without a mask")],
    ),
    "image in no official folder": (
        isic_with(homeless), [("others/ISIC_0000001.jpg", "lies in no folder named after Training, Validation or Test")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_set(refused, tmp_path, name):
    build, expected = PUBLISHED[name]
    lines = refused(*build(tmp_path), *ID)
    if name == "validation image without mask":
        assert lines[1].startswith(f"  {expected[0][0]}") and lines[1].endswith(expected[0][1]) and len(lines) == 2
    else:
        check_listed(lines, expected)


def btcv_and_arrays(root):
    source = arrays(root)
    downloads.btcv(source, (1, 5), unlabelled=False)
    return ["synapse", source, *TRANSUNET]


def empty(path):
    path.mkdir()
    return path


def text(path, content="hello"):
    path.write_text(content)
    return path


SOURCES = {
    "not there": (lambda root: ["folder", root / "nothing"], "{root}/nothing does not exist"),
    "text file": (lambda root: ["folder", text(root / "a.txt")], "{root}/a.txt is neither a folder nor a zip archive"),
    "empty folder": (lambda root: ["folder", empty(root / "none")], "no files in {root}/none"),
    "empty zip": (
        lambda root: ["folder", downloads.write_zip_with(root / "none.zip", {})], "no files in {root}/none.zip"
    ),
    "one of two not there": (
        lambda root: ["folder", downloads.nuclei(root, 6), root / "nothing"], "{root}/nothing does not exist"
    ),
    "only text": (
        lambda root: ["folder", text(empty(root / "some") / "a.txt").parent], "pictures and volumes are: none"
    ),
    "no Synapse": (lambda root: ["synapse", downloads.nuclei(root, 6)], "no Synapse in the source; expected files"),
    "no ISIC": (lambda root: ["isic2017", downloads.nuclei(root, 6)], "no ISIC_*.jpg in the source"),
    "no frames": (lambda root: ["colondb", downloads.isic2017(root)], "no folders of frames and masks in the source"),
    "arrays without --source-labels": (lambda root: ["synapse", arrays(root)], "arrays need --source-labels: btcv"),
    "13 organs of 8": (
        lambda root: ["synapse", arrays(root), *TRANSUNET, "--organs", "13"], "transunet has 8 organs"
    ),
    "spacing of 0": (
        lambda root: ["synapse", arrays(root), *TRANSUNET, "--spacing", "0", "1", "1"], "three lengths above 0 mm"
    ),
    "spacing that is not finite": (
        lambda root: ["synapse", arrays(root), *TRANSUNET, "--spacing", "inf", "1", "1"], "three lengths above 0 mm"
    ),
    "NIfTI and arrays": (btcv_and_arrays, "the source has Synapse as NIfTI and as arrays"),
    "three sizes": (lambda root: ["folder", downloads.nuclei(root, 6), "--size", "1", "2", "3"], "--size takes one"),
    "size of volumes": (lambda root: ["folder", volumes(root), "--size", "8"], "are for pictures"),
    "bad ratio": (lambda root: ["folder", downloads.nuclei(root, 6), "--split", "8:1"], "--split 8:1 "),
    "ratio that is not finite": (lambda root: ["folder", downloads.nuclei(root, 6), "--split", "8:inf:1"], "--split 8"),
    "ratio without training": (lambda root: ["folder", downloads.nuclei(root, 6), "--split", "0:1:1"], "--split 0:1:1"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_source_and_options(refused, tmp_path, name):
    build, phrase = SOURCES[name]
    (line,) = refused(*build(tmp_path), *ID)
    assert line.startswith("xattnres convert: ") and phrase.format(root=tmp_path) in line


def test_one_source_twice(refused, tmp_path):
    source = downloads.nuclei(tmp_path, 6)
    again = shutil.copytree(source, tmp_path / "again" / "more")
    check_listed(refused("folder", source, again, *ID), [
        (f"{source.name}/{folder}/{n}.png", f"as more/{folder}/{n}.png does")
        for folder in ("images", "masks") for n in range(1, 7)
    ])  # fmt: skip


# archives


def member_bytes(path, name, change):
    """Apply `change(archive's bytes, start of the member's header, of its data, of its line in the directory)`."""
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(name)
    data = bytearray(path.read_bytes())
    start = info.header_offset
    name_length, extra_length = struct.unpack("<HH", data[start + 26 : start + 30])
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    change(data, start, start + 30 + name_length + extra_length, entry)
    path.write_bytes(data)


def overwrite(offset, value):
    def change(data, header, content, entry):
        data[content + offset : content + offset + len(value)] = value

    return change


def encrypt(data, header, content, entry):
    data[header + 6] |= 1
    data[entry + 8] |= 1


def unknown_method(data, header, content, entry):
    data[header + 8] = data[entry + 10] = 99


def archive(root, method=zipfile.ZIP_STORED, **more):
    source = downloads.nuclei(root, 6)
    path = root / "Nuclei.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        for picture in sorted(source.rglob("*.png")):
            file.write(picture, picture.relative_to(source))
    shutil.rmtree(source)
    return path


MEMBERS = {
    "another byte": (zipfile.ZIP_STORED, overwrite(100, b"\xa5\x5a\xa5"), "Bad CRC-32"),
    "broken compression": (zipfile.ZIP_DEFLATED, overwrite(0, b"\xff\xff\xff\xff"), "cannot be read"),
    "encrypted": (zipfile.ZIP_STORED, encrypt, "encrypted"),
    "unknown compression": (zipfile.ZIP_STORED, unknown_method, "compression method"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_archive_member(refused, tmp_path, name):
    method, change, phrase = MEMBERS[name]
    path = archive(tmp_path, method)
    member_bytes(path, "images/3.png", change)
    check_listed(refused("folder", path, *ID), [("images/3.png", phrase)])


HOSTILE = ("../evil.png", "images/../../evil.png", "..\\evil.png", "C:/evil.png", "{root}/evil.png", "/evil.png")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_leave_the_archive(refused, tmp_path, name):
    path, name = archive(tmp_path), name.format(root=tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"evil")
    check_listed(refused("folder", path, *ID), [(f"Nuclei.zip/{name}", "leaves the archive's folder: not followed")])
    assert not Path("/evil.png").exists()
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_leave_the_archive_are_left_out(folders, tmp_path, capsys, name):
    path, name = archive(tmp_path), name.format(root=tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"evil")
    assert run("folder", path, *ID, "--skip-bad") == 0
    assert f"left out: Nuclei.zip/{name}: the name leaves the archive's folder" in capsys.readouterr().err
    assert not Path("/evil.png").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_a_member_without_a_name(folders, tmp_path, name="."):
    """They hold nothing that could be a case."""
    path = archive(tmp_path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"")
    assert run("folder", path, *ID) == 0


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda data: data[: len(data) // 2], "is neither a folder nor a zip archive"),
        (lambda data: data.replace(b"PK\x01\x02", b"XXXX"), "is a damaged zip archive"),
        (lambda data: b"PK\x03\x04" + bytes(200), "is neither a folder nor a zip archive"),
    ],
    ids=["truncated", "directory damaged", "only a beginning"],
)
def test_corrupt_archive(refused, tmp_path, change, phrase):
    path = archive(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    (line,) = refused("folder", path, *ID)
    assert str(path) in line and phrase in line


# splits


SPLITS = {
    "path": ("a.csv", "../x,train\n", "names '../x': expected the name of a file without folders"),
    "hidden": ("a.csv", ".x,train\n", "names '.x'"),
    "path in JSON": ("a.json", '{"train": ["../x"]}', "names '../x'"),
    "unknown split": ("a.csv", "1,train\n2,holdout\n", "puts 2 into 'holdout': expected train, val, test"),
    "unknown split in JSON": ("a.json", '{"train": ["1"], "dev": ["2"]}', "puts 2 into 'dev'"),
    "case twice": ("a.csv", "1,train\n2,train\n1,test\n", "names 1 twice"),
    "case twice in JSON": ("a.json", '{"train": ["1", "2"], "test": ["1"]}', "names 1 twice"),
    "three columns": ("a.csv", "1,train,5\n", "expected a ratio A:B:C, lines CASE,SPLIT"),
    "broken JSON": ("a.json", '{"train": ["1"', "cannot be read"),
    "JSON list": ("a.json", '["1"]', "no object of lists"),
    "binary": ("a.csv", b"\xff\xfe\x00", "cannot be read"),
    "none": (None, "", "cannot be read"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_split_file(refused, tmp_path, name):
    file, content, phrase = SPLITS[name]
    if file:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = tmp_path / (file or "nothing.csv")
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID, "--split", path)
    assert f"--split {path}" in line and phrase in line


# nnU-Net's folders


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_number_is_taken(refused, folders, tmp_path, variable):
    (folders[variable] / "Dataset007_Other").mkdir()
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID)
    assert f"{folders[variable]}/Dataset007_Other has the number 7 already: choose another --dataset-id" in line


def test_dataset_exists(refused, folders, tmp_path):
    text(empty(folders["nnUNet_raw"] / DATASET) / "dataset.json")
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID)
    assert f"{folders['nnUNet_raw']}/{DATASET} exists: " in line and "--overwrite" in line


@pytest.mark.parametrize("name", ["a b", "../x", "a/b", ".hidden", "Ä", "a\n"])
def test_bad_name(refused, tmp_path, name):
    lines = refused("folder", downloads.nuclei(tmp_path, 6), "--dataset-id", "7", "--name", name)
    assert len(lines) == 1 and f"--name must be letters, digits, - and _, got {name!r}" in lines[0]


@pytest.mark.parametrize("number", ["0", "-1", "1000", "x"])
def test_bad_number(refused, tmp_path, number):
    lines = refused("folder", downloads.nuclei(tmp_path, 6), "--dataset-id", number)
    assert "--dataset-id" in lines[-1] and number in lines[-1]


@pytest.mark.parametrize(
    ("value", "phrase"), [(None, "it is not set"), ("", "it is not set"), ("{root}/nothing", "it is {root}/nothing")]
)
def test_no_folder_of_raw_datasets(refused, monkeypatch, tmp_path, value, phrase):
    monkeypatch.delenv("nnUNet_raw") if value is None else monkeypatch.setenv("nnUNet_raw", value.format(root=tmp_path))
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID)
    assert "nnUNet_raw must name nnU-Net's folder for raw datasets" in line
    assert phrase.format(root=tmp_path) in line and "export nnUNet_raw=" in line


NAMES = [str(n) for n in range(1, 7)]
OTHER_SPLITS = {
    "other": json.dumps([{"train": ["1"], "val": ["2"]}]),
    "damaged": '[{"train": ["1", ',
    "object": '{"train": ["1"], "val": ["2"]}',
    "empty": "",
}


@pytest.mark.parametrize("name", OTHER_SPLITS)
def test_other_splits_in_the_preprocessed_folder(refused, folders, tmp_path, name):
    file = text(empty(folders["nnUNet_preprocessed"] / DATASET) / "splits_final.json", OTHER_SPLITS[name])
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID)
    assert str(file) in line and "--overwrite" in line


def test_other_splits_that_train_with_test_cases(refused, folders, tmp_path):
    """Without validation cases there is no fold to compare; nnU-Net would still train with the file's."""
    folds = json.dumps([{"train": NAMES[:4], "val": NAMES[4:]}])
    file = text(empty(folders["nnUNet_preprocessed"] / DATASET) / "splits_final.json", folds)
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID, "--split", "4:0:2")
    assert str(file) in line and "--overwrite" in line


def test_raw_folder_that_cannot_be_written(refused, folders, monkeypatch, tmp_path):
    original = Path.mkdir

    def mkdir(self, *arguments, **options):
        if self.name == f".{DATASET}.converting":
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, *arguments, **options)

    source = downloads.nuclei(tmp_path, 6)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    (line,) = refused("folder", source, *ID)
    assert f"cannot write to {folders['nnUNet_raw']} (Permission denied): choose another nnUNet_raw" in line


@pytest.mark.parametrize("folder", ["dataset", "imagesTr", "records"])
def test_hidden_folder_that_cannot_be_filled(refused, monkeypatch, tmp_path, folder):
    original = Path.mkdir

    def mkdir(self, *arguments, **options):
        if self.name == folder:
            raise OSError(28, "No space left on device", str(self))
        return original(self, *arguments, **options)

    source = downloads.nuclei(tmp_path, 6)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    (line,) = refused("folder", source, *ID, code=1)
    assert "No space left on device" in line


def test_a_source_is_never_replaced(refused, folders, tmp_path):
    """A dataset that is converted onto itself, as to change its labels."""
    source = downloads.nuclei(tmp_path, 6).rename(folders["nnUNet_raw"] / DATASET)
    (line,) = refused("folder", source, *ID, "--overwrite")
    assert str(source) in line


def test_dry_run_of_a_dataset_that_exists(refused, folders, tmp_path):
    empty(folders["nnUNet_raw"] / DATASET)
    (line,) = refused("folder", downloads.nuclei(tmp_path, 6), *ID, "--dry-run")
    assert f"{DATASET} exists" in line


# many at once


GOOD = 8


@pytest.fixture
def full_of_faults(tmp_path):
    """Every fault of pictures in a case of its own, then some good cases; and the list that is to be expected."""
    source = downloads.nuclei(tmp_path, len(PICTURES) + GOOD)
    expected = []
    for n, fault in enumerate(PICTURES.values(), 1):
        fault.change(source, n)
        expected.append((fault.file.format(n=n), fault.phrase.format(n=n)))
    return source, expected


def test_all_faults_are_listed_at_once(refused, full_of_faults):
    source, expected = full_of_faults
    check_listed(refused("folder", source, *ID), expected)


def test_dry_run_lists_the_same(refused, full_of_faults):
    source, _ = full_of_faults
    assert refused("folder", source, *ID, "--dry-run") == refused("folder", source, *ID)


def test_dry_run_that_skips(folders, full_of_faults, tmp_path, capsys):
    source, expected = full_of_faults
    before = snapshot(tmp_path)
    assert run("folder", source, *ID, "--dry-run", "--skip-bad") == 0
    assert snapshot(tmp_path) == before
    out, err = capsys.readouterr()
    assert out.startswith(f"{GOOD} cases ")
    for file, phrase in expected:
        assert [line for line in err.splitlines() if line.startswith(f"left out: {file}: ") and phrase in line]


def test_skip_bad(folders, full_of_faults, tmp_path, capsys):
    source, expected = full_of_faults
    before = snapshot(source)
    assert run("folder", source, *ID, "--skip-bad") == 0
    assert snapshot(source) == before
    dataset = folders["nnUNet_raw"] / DATASET
    good = {str(n) for n in range(len(PICTURES) + 1, len(PICTURES) + GOOD + 1)}
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert {record["case"] for record in manifest["cases"]} == good
    for folders_of, suffix in ((("imagesTr", "imagesTs"), "_0000"), (("labelsTr", "labelsTs"), "")):
        found = [p.name for f in folders_of if (dataset / f).exists() for p in (dataset / f).iterdir()]
        assert sorted(found) == sorted(f"{name}{suffix}.png" for name in good)
    training = len(list((dataset / "imagesTr").iterdir()))
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == training
    left_out = [(entry["file"], entry["problem"]) for entry in manifest["left_out"]]
    assert len(left_out) == len(expected)
    for file, phrase in expected:
        assert [problem for name, problem in left_out if name == file and phrase in problem]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert told == [f"left out: {file}: {problem}" for file, problem in left_out]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_nothing_is_left_to_train_with(refused, tmp_path, dry):
    source = downloads.nuclei(tmp_path, 6)
    for n in range(1, 7):
        cut(image(source, n))
    lines = refused("folder", source, *ID, "--skip-bad", *dry)
    assert "none of 6 cases is left to train with" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == [f"  images/{n}.png" for n in range(1, 7)]


# processes of their own


LIMITED = """\
import resource, sys
from nnunet_xattnres.cli.main import main
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    sys.exit(main(sys.argv[1:]))
"""
DYING = """\
import os, sys
from nnunet_xattnres.convert.images import PictureReader
if __name__ == "__mp_main__":
    read = PictureReader.read
    PictureReader.read = lambda self, case: os._exit(9) if case.name == "3" else read(self, case)
else:
    from nnunet_xattnres.cli.main import main
    sys.exit(main(sys.argv[1:]))
"""


def run_script(root, script, *arguments):
    path = root / "script.py"
    path.write_text(script)
    command = [sys.executable, path, "convert", *map(str, arguments)]
    return subprocess.run(command, env=os.environ, cwd=root, capture_output=True, timeout=120)


def big_pictures(root):
    downloads._photos(root / "big", range(1, 5), 1, lambda n: (200, 200))
    return root / "big"


def big_volumes(root):
    source = volumes(root)
    noise = np.random.default_rng(0).normal(size=(20, 60, 60)).astype(np.float32)
    downloads._write_volume(noise, image(source, 3, GZ), 1)
    downloads._write_volume((noise > 0).astype(np.uint8), mask(source, 3, GZ), 1)
    return source


@pytest.mark.parametrize(
    ("build", "limit", "workers", "phrase"),
    [
        (big_pictures, 20_000, 1, "cannot write the case 1 (File too large)"),
        (big_pictures, 20_000, 2, "(File too large)"),
        (big_volumes, 20_000, 1, "cannot write the case 3 (not written whole"),
        (downloads.nuclei, 20_000, 1, "File too large"),
        (downloads.nuclei, 5_000, 1, "manifest.json (File too large)"),
        (downloads.nuclei, 150, 1, "settings.json (File too large)"),
    ],
    ids=["picture", "picture, two workers", "volume", "preview", "manifest", "settings"],
)
def test_disk_that_fills(folders, tmp_path, build, limit, workers, phrase):
    before = snapshot(build(tmp_path))
    source = next(p for p in tmp_path.iterdir() if (p / "images").exists())
    size = ("--size", "8") if limit == 5_000 else ()
    process = run_script(tmp_path, LIMITED.format(limit=limit), "folder", source, *ID, "--workers", workers, *size)
    *others, line = process.stderr.decode().splitlines()
    assert process.returncode in (1, 2) and not process.stdout
    assert line.startswith("xattnres convert: cannot write ") and phrase in line
    assert all(other.startswith("** ERROR: NWAD: wrote only ") for other in others)  # niftilib's own
    assert not list(folders["nnUNet_raw"].iterdir())
    assert snapshot(source) == before


def test_worker_that_dies(folders, tmp_path):
    source = downloads.nuclei(tmp_path, 6)
    before = snapshot(source)
    process = run_script(tmp_path, DYING, "folder", source, *ID, "--workers", 2)
    (line,) = process.stderr.decode().splitlines()
    assert process.returncode == 1 and not process.stdout
    assert "a worker process died" in line and "--workers 1" in line
    assert not list(folders["nnUNet_raw"].iterdir())
    assert snapshot(source) == before


def test_name_in_no_encoding(folders, tmp_path):
    source = downloads.nuclei(tmp_path, 6)
    for folder in ("images", "masks"):
        os.rename(source / folder / "3.png", os.path.join(os.fsencode(source / folder), b"\xff.png"))
    process = run_script(tmp_path, LIMITED.format(limit=1 << 30), "folder", source, *ID, "--workers", 1)
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 2 and "1 problem with 5 cases" in lines[0]
    assert "its name cannot be a case's name" in lines[1] and len(lines) == 2
    assert not list(folders["nnUNet_raw"].iterdir())
