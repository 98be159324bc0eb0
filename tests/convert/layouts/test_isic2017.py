"""ISIC 2017 against its source: the official folders are the split, superpixels stay out."""

import json
import shutil

import numpy as np
import pytest
from skimage import io
from support import converted, downloads


@pytest.fixture(scope="module")
def isic(tmp_path_factory):
    return downloads.isic2017(tmp_path_factory.mktemp("isic"))


PARTS = {
    "train": {f"ISIC_{n:07d}" for n in range(6)},
    "val": {"ISIC_0000006", "ISIC_0000007"},
    "test": {f"ISIC_{n:07d}" for n in range(8, 11)},
}


def test_folders(convert, isic):
    dataset = convert("isic2017", isic)
    assert converted.split(dataset) == PARTS
    for part, official, case in (("Tr", "Training", 0), ("Tr", "Validation", 7), ("Ts", "Test_v2", 10)):
        name = f"ISIC_{case:07d}"
        image = converted.content(dataset / f"images{part}" / f"{name}_0000.png")
        np.testing.assert_array_equal(image, io.imread(isic / f"ISIC-2017_{official}_Data" / f"{name}.jpg"))
        mask = io.imread(isic / f"ISIC-2017_{official}_Part1_GroundTruth" / f"{name}_segmentation.png")
        np.testing.assert_array_equal(converted.content(dataset / f"labels{part}" / f"{name}.png"), mask // 255)
    notes = json.loads((dataset / "manifest.json").read_text())["notes"]
    assert notes == [
        "11 superpixel files are left aside", "train: 6 images of the official 2000",
        "val: 2 images of the official 150", "test: 3 images of the official 600",
    ]  # fmt: skip


def test_archives_as_downloaded(convert, isic, tmp_path):
    archives = [downloads.zipped(f, tmp_path / f"{f.name}.zip") for f in sorted(isic.iterdir())]
    dataset = convert("isic2017", *archives, "--size", 32)
    assert converted.split(dataset) == PARTS
    assert converted.content(dataset / "imagesTs" / "ISIC_0000009_0000.png").shape == (32, 32, 3)
    source = converted.manifest(dataset)["ISIC_0000009"]["source"]
    test = "ISIC-2017_Test_v2"
    assert [s["file"] for s in source] == [
        f"{test}_Data.zip/{test}_Data/ISIC_0000009.jpg",
        f"{test}_Part1_GroundTruth.zip/{test}_Part1_GroundTruth/ISIC_0000009_segmentation.png",
    ]


def test_archives_without_a_top_folder(convert, isic, tmp_path):
    archives = [shutil.make_archive(str(tmp_path / f.name), "zip", f) for f in sorted(isic.iterdir())]
    assert converted.split(convert("isic2017", *archives)) == PARTS


def test_whatever_is_there(convert, isic, tmp_path):
    source = tmp_path / "some"
    shutil.copytree(isic / "ISIC-2017_Training_Data", source / "ISIC-2017_Training_Data")
    shutil.copytree(isic / "ISIC-2017_Training_Part1_GroundTruth", source / "ISIC-2017_Training_Part1_GroundTruth")
    shutil.copytree(isic / "ISIC-2017_Test_v2_Data", source / "ISIC-2017_Test_v2_Data")
    dataset = convert("isic2017", source)
    assert converted.split(dataset) == PARTS | {"val": set()}
    assert not list((dataset / "labelsTs").iterdir())
    assert not (dataset / "splits_final.json").exists()
