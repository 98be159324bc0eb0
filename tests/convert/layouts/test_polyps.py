"""CVC-ColonDB and CVC-ClinicDB compared with their source, in every layout that is in use."""

import shutil

import numpy as np
import pytest
from skimage import io
from support import converted, downloads, faults

from nnunet_xattnres.convert.splits import published_list

REPORTED_TEST_FRAMES = {"363", "575", "590", "182", "139", "8"}
"""Test frames of ClinicDB that are named in a reproduction of EMCAD on the data of its authors."""


def compare(dataset, source, images, masks, ending, name, part):
    """Compare a converted case with its source."""
    image = converted.read_array(dataset / f"images{part}" / f"{name}_0000.png")
    label = converted.read_array(dataset / f"labels{part}" / f"{name}.png")
    np.testing.assert_array_equal(image, io.imread(source / images / f"{name}.{ending}"))
    mask = io.imread(source / masks / f"{name}.{ending}")
    np.testing.assert_array_equal(label, (mask if mask.ndim == 2 else mask[..., 0]) // 255)
    assert set(np.unique(label)) == {0, 1}


FORMS = {
    "png": ("PNG/Original", "PNG/Ground Truth", "png"),
    "both": ("PNG/Original", "PNG/Ground Truth", "png"),
    "tif": ("Original", "Ground Truth", "tif"),
    "flat": ("images", "masks", "png"),
}
"""Folder of the images, folder of the masks and ending of the files that are converted."""

COMPARED = ("1", "60", "117", "612")
SOME_FRAMES = sorted(map(int, {*COMPARED, *REPORTED_TEST_FRAMES}))


@pytest.mark.parametrize("form", FORMS)
def test_some_frames_of_clinicdb(convert, tmp_path, form):
    source = downloads.clinicdb(tmp_path, form, SOME_FRAMES)
    dataset = convert("clinicdb", source, "--skip-bad")
    splits = converted.cases_by_split(dataset)
    assert splits["test"] >= REPORTED_TEST_FRAMES
    for name in COMPARED:
        compare(dataset, source, *FORMS[form], name, "Ts" if name in splits["test"] else "Tr")


@pytest.mark.parametrize(
    "form", ["tif", *(pytest.param(form, marks=pytest.mark.slow) for form in ("png", "both", "flat"))]
)
def test_all_frames_of_clinicdb(convert, tmp_path, form):
    splits = converted.cases_by_split(convert("clinicdb", downloads.clinicdb(tmp_path, form)))
    assert {name: len(cases) for name, cases in splits.items()} == {"train": 489, "val": 61, "test": 62}
    assert splits["test"] >= REPORTED_TEST_FRAMES


def test_colondb(convert, tmp_path):
    source = downloads.colondb(tmp_path)
    dataset = convert("colondb", source)
    splits = converted.cases_by_split(dataset)
    listed_cases = published_list("colondb")
    listed = {split: {n for n, case in listed_cases.items() if case.split == split} for split in splits}
    assert {name: len(cases) for name, cases in listed.items()} == {"train": 303, "val": 38, "test": 38}
    # the list names 379 of the 380 frames; the other one must not change the test frames
    assert splits == listed | {"train": listed["train"] | {"380"}}
    for name in ("380", "10", "83", "48"):
        compare(dataset, source, "images", "masks", "png", name, "Ts" if name in splits["test"] else "Tr")


def test_frames_of_other_names_are_split_by_seed(convert, tmp_path):
    source = downloads.colondb(tmp_path, range(1, 41))
    for folder in ("images", "masks"):
        for file in (source / folder).iterdir():
            file.rename(file.with_name(f"frame_{file.name}"))
    splits = [
        converted.cases_by_split(convert("colondb", source, "--seed", seed, "--name", f"S{k}", number=8 + k))
        for k, seed in enumerate((0, 0, 1))
    ]
    assert [{split: len(cases) for split, cases in p.items()} for p in splits] == [
        {"train": 32, "val": 4, "test": 4}
    ] * 3
    assert splits[0] == splits[1] != splits[2]


def test_numbers_with_leading_zeros_are_on_the_list(convert, tmp_path):
    source = downloads.clinicdb(tmp_path, "flat", SOME_FRAMES)
    for folder in ("images", "masks"):
        for file in (source / folder).iterdir():
            file.rename(file.with_name(f"{int(file.stem):03d}.png"))
    assert converted.cases_by_split(convert("clinicdb", source, "--skip-bad"))["test"] >= REPORTED_TEST_FRAMES


class TestProblems:
    def test_missing_frames(self, refuse, tmp_path):
        lines = refuse("colondb", downloads.colondb(tmp_path, range(1, 375)))
        faults.check_listed(lines, [("the source", "incomplete", "5 of the 379", "375, 376, 377, 378, 379")])

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (
                lambda s: [shutil.copy(s / f / "1.png", s / f / "001.png") for f in ("images", "masks")],
                [("images/001.png", "duplicate", "images/1.png"), ("masks/001.png", "duplicate", "masks/1.png")],
            ),
            (lambda s: (s / "masks" / "4.png").unlink(), [("images/4.png", "mask-missing")]),
        ],
        ids=["frames 1 and 001", "no mask"],
    )
    def test_files_with_faults(self, refuse, tmp_path, change, expected):
        source = downloads.colondb(tmp_path, range(1, 8))
        change(source)
        faults.check_listed(refuse("colondb", source), [*expected, ("the source", "incomplete", "of the 379")])

    def test_several_sets(self, refuse_line, convert, tmp_path):
        """PraNet's test data are folders of several sets, which have frames of the same names."""
        for name in ("CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB"):
            downloads.write_photos(tmp_path / "sets" / "TestDataset" / name, range(1, 12), 1, lambda n: (28, 24))
        line = refuse_line("colondb", tmp_path / "sets")
        folder = tmp_path / "sets" / "TestDataset" / "CVC-ColonDB"
        assert "TestDataset/ETIS-LaribPolypDB" in line and line.endswith(str(folder))
        assert len(converted.records(convert("colondb", folder, "--skip-bad"))) == 11

    def test_one_set_in_folders_of_a_split_is_one_set(self, convert, tmp_path):
        for part, frames in (("train", range(1, 8)), ("test", range(8, 12))):
            downloads.write_photos(tmp_path / "sets" / part, frames, 1, lambda n: (28, 24))
        assert len(converted.records(convert("colondb", tmp_path / "sets", "--skip-bad"))) == 11

    def test_no_frames(self, refuse_line, tmp_path):
        assert "images/1.png" in refuse_line("colondb", downloads.isic2017(tmp_path))
