"""CVC-ColonDB and CVC-ClinicDB against their source, in every layout that circulates and with the published lists."""

import shutil

import numpy as np
import pytest
from PIL import Image
from skimage import io
from support import converted, downloads

from nnunet_xattnres.convert.splits import published

REPORTED_TEST_FRAMES = {"363", "575", "590", "182", "139", "8"}
"""Test frames of ClinicDB that a reproduction of EMCAD on the authors' own data names."""


def same_as(dataset, source, images, masks, name, ending, part):
    image = converted.content(dataset / f"images{part}" / f"{name}_0000.png")
    label = converted.content(dataset / f"labels{part}" / f"{name}.png")
    np.testing.assert_array_equal(image, io.imread(source / images / f"{name}.{ending}"))
    mask = io.imread(source / masks / f"{name}.{ending}")
    np.testing.assert_array_equal(label, (mask if mask.ndim == 2 else mask[..., 0]) // 255)
    assert set(np.unique(label)) == {0, 1}


@pytest.mark.parametrize(
    ("form", "images", "masks", "ending"),
    [
        ("png", "PNG/Original", "PNG/Ground Truth", "png"), ("both", "PNG/Original", "PNG/Ground Truth", "png"),
        ("tif", "Original", "Ground Truth", "tif"), ("flat", "images", "masks", "png"),
    ],
)  # fmt: skip
def test_clinicdb(convert, tmp_path, form, images, masks, ending):
    source = downloads.clinicdb(tmp_path, form)
    dataset = convert("clinicdb", source)
    parts = converted.split(dataset)
    assert {name: len(cases) for name, cases in parts.items()} == {"train": 489, "val": 61, "test": 62}
    assert parts["test"] >= REPORTED_TEST_FRAMES
    for name in ("1", "60", "117", "612"):
        same_as(dataset, source, images, masks, name, ending, "Ts" if name in parts["test"] else "Tr")


def test_colondb(convert, tmp_path):
    source = downloads.colondb(tmp_path)
    dataset = convert("colondb", source)
    parts = converted.split(dataset)
    entries = published("colondb")
    listed = {split: {n for n, entry in entries.items() if entry.split == split} for split in parts}
    assert {name: len(cases) for name, cases in listed.items()} == {"train": 303, "val": 38, "test": 38}
    # the list names 379 of the 380 frames; the last one may not change what is tested
    assert parts == listed | {"train": listed["train"] | {"380"}}
    for name in ("380", "10", "83", "48"):
        same_as(dataset, source, "images", "masks", name, "png", "Ts" if name in parts["test"] else "Tr")


@pytest.mark.parametrize("name", ["colondb", "clinicdb"])
def test_the_lists_name_every_frame_once(name):
    frames = {"colondb": 379, "clinicdb": 612}[name]
    assert set(published(name)) == {str(n) for n in range(1, frames + 1)}


def test_frames_of_other_names_are_split_by_seed(convert, tmp_path):
    source = downloads.colondb(tmp_path, range(1, 41))
    for folder in ("images", "masks"):
        for file in (source / folder).iterdir():
            file.rename(file.with_name(f"frame_{file.name}"))
    parts = [
        converted.split(convert("colondb", source, "--seed", seed, "--name", f"S{k}", number=8 + k))
        for k, seed in enumerate((0, 0, 1))
    ]
    assert [{split: len(cases) for split, cases in p.items()} for p in parts] == [
        {"train": 32, "val": 4, "test": 4}
    ] * 3
    assert parts[0] == parts[1] != parts[2]


def test_zero_padded_frames_are_on_the_list(convert, tmp_path):
    source = downloads.clinicdb(tmp_path, "flat")
    for folder in ("images", "masks"):
        for file in (source / folder).iterdir():
            file.rename(file.with_name(f"{int(file.stem):03d}.png"))
    assert converted.split(convert("clinicdb", source))["test"] >= REPORTED_TEST_FRAMES


@pytest.mark.parametrize("flavour", downloads.FLAVOURS)
def test_every_flavour_of_mask(convert, tmp_path, flavour):
    source = downloads.colondb(tmp_path, range(1, 380))
    mask = np.zeros((24, 28), bool)
    mask[6:18, 8:20] = True
    for n in (1, 2):
        (source / "masks" / f"{n}.png").unlink()
        downloads.save_mask(mask, source / "masks" / f"{n}{downloads.ending(flavour)}", flavour)
    dataset = convert("colondb", source)
    np.testing.assert_array_equal(converted.content(dataset / "labelsTr" / "1.png"), mask)


def test_a_mask_of_another_size(convert, tmp_path):
    source = downloads.clinicdb(tmp_path, "flat")
    file = source / "masks" / "1.png"
    with Image.open(file) as mask:
        mask.resize((56, 48), Image.Resampling.NEAREST).save(file)
    shutil.copyfile(file, tmp_path / "doubled.png")
    dataset = convert("clinicdb", source, "--resize-masks")
    doubled = io.imread(tmp_path / "doubled.png")
    np.testing.assert_array_equal(converted.content(dataset / "labelsTr" / "1.png"), doubled[::2, ::2] // 255)
    assert "mask resized from 56x48 to 28x24 (width x height)" in converted.manifest(dataset)["1"]["changes"]


def test_size(convert, tmp_path):
    source = downloads.clinicdb(tmp_path, "flat")
    dataset = convert("clinicdb", source, "--size", 12, 14)
    image, label = (converted.content(dataset / folder) for folder in ("imagesTr/1_0000.png", "labelsTr/1.png"))
    assert image.shape == (12, 14, 3) and label.shape == (12, 14)
    assert set(np.unique(label)) == {0, 1}
    whole = io.imread(source / "images" / "1.png").reshape(12, 2, 14, 2, 3).mean((1, 3))
    assert np.abs(image - whole).mean() < 8  # a smoothed half of the size; random colours differ by 30
