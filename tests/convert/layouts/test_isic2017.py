"""ISIC 2017 compared with its source: the official folders define the split, superpixel files are ignored."""

import re
import shutil

import numpy as np
import pytest
from skimage import io
from support import converted, downloads, faults


@pytest.fixture(scope="module")
def isic(tmp_path_factory):
    return downloads.isic2017(tmp_path_factory.mktemp("isic"))


SPLITS = {
    "train": {f"ISIC_{n:07d}" for n in range(6)},
    "val": {"ISIC_0000006", "ISIC_0000007"},
    "test": {f"ISIC_{n:07d}" for n in range(8, 11)},
}


def test_folders(convert, isic):
    dataset = convert("isic2017", isic)
    assert converted.cases_by_split(dataset) == SPLITS
    for part, official, case in (("Tr", "Training", 0), ("Tr", "Validation", 7), ("Ts", "Test_v2", 10)):
        name = f"ISIC_{case:07d}"
        image = converted.read_array(dataset / f"images{part}" / f"{name}_0000.png")
        np.testing.assert_array_equal(image, io.imread(isic / f"ISIC-2017_{official}_Data" / f"{name}.jpg"))
        mask = io.imread(isic / f"ISIC-2017_{official}_Part1_GroundTruth" / f"{name}_segmentation.png")
        np.testing.assert_array_equal(converted.read_array(dataset / f"labels{part}" / f"{name}.png"), mask // 255)
    notes = converted.read_manifest(dataset)["notes"]
    numbers = [[int(n) for n in re.findall(r"\d+", note)] for note in notes]
    assert numbers == [[11], [6, 2000], [2, 150], [3, 600]]  # superpixels, and train, val, test of the official numbers


def test_archives_as_downloaded(convert, isic, tmp_path):
    archives = [downloads.zipped(f, tmp_path / f"{f.name}.zip") for f in sorted(isic.iterdir())]
    dataset = convert("isic2017", *archives, "--size", 32)
    assert converted.cases_by_split(dataset) == SPLITS
    assert converted.read_array(dataset / "imagesTs" / "ISIC_0000009_0000.png").shape == (32, 32, 3)
    source = converted.records(dataset)["ISIC_0000009"]["source"]
    test = "ISIC-2017_Test_v2"
    assert [s["file"] for s in source] == [
        f"{test}_Data.zip/{test}_Data/ISIC_0000009.jpg",
        f"{test}_Part1_GroundTruth.zip/{test}_Part1_GroundTruth/ISIC_0000009_segmentation.png",
    ]


def test_archives_without_a_top_folder(convert, isic, tmp_path):
    archives = [shutil.make_archive(str(tmp_path / f.name), "zip", f) for f in sorted(isic.iterdir())]
    assert converted.cases_by_split(convert("isic2017", *archives)) == SPLITS


def test_a_part_of_the_downloads(convert, isic, tmp_path):
    source = tmp_path / "part"
    shutil.copytree(isic / "ISIC-2017_Training_Data", source / "ISIC-2017_Training_Data")
    shutil.copytree(isic / "ISIC-2017_Training_Part1_GroundTruth", source / "ISIC-2017_Training_Part1_GroundTruth")
    shutil.copytree(isic / "ISIC-2017_Test_v2_Data", source / "ISIC-2017_Test_v2_Data")
    dataset = convert("isic2017", source)
    assert converted.cases_by_split(dataset) == SPLITS | {"val": set()}
    assert not list((dataset / "labelsTs").iterdir())
    assert not (dataset / "splits_final.json").exists()


class TestProblems:
    @pytest.fixture
    def source(self, tmp_path):
        return downloads.isic2017(tmp_path)

    def test_no_training_masks(self, refuse, source):
        shutil.rmtree(source / "ISIC-2017_Training_Part1_GroundTruth")
        lines = refuse("isic2017", source)
        faults.check_listed(lines, [("ISIC-2017_Training_Data", "mask-missing", "6", "Part1_GroundTruth")])

    def test_no_mask_of_one_validation_image(self, refuse, source):
        mask = next((source / "ISIC-2017_Validation_Part1_GroundTruth").iterdir())
        mask.unlink()
        image = f"ISIC-2017_Validation_Data/{mask.stem.removesuffix('_segmentation')}.jpg"
        faults.check_listed(refuse("isic2017", source), [(image, "mask-missing")])

    def test_an_image_in_no_official_folder(self, refuse, source):
        (source / "others").mkdir()
        for path in sorted(source.rglob("ISIC_0000001*")):
            path.rename(source / "others" / path.name)
        faults.check_listed(refuse("isic2017", source), [("others/ISIC_0000001.jpg", "no-split")])

    def test_no_isic_images(self, refuse_line, tmp_path):
        assert "ISIC_*.jpg" in refuse_line("isic2017", downloads.nuclei(tmp_path, 6))

    def test_a_folder_of_archives(self, refuse_line, source, tmp_path):
        (tmp_path / "archives").mkdir()
        downloads.zipped(source, tmp_path / "archives" / "all.zip")
        assert "*.zip" in refuse_line("isic2017", tmp_path / "archives")
