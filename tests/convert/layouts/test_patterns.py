"""Patterns tell images from masks, and find the name of the case and what tells it from others in a path."""

from pathlib import Path

import pytest

from nnunet_xattnres.convert.layouts.patterns import Pattern, find_images_and_masks, relative_pattern
from nnunet_xattnres.convert.sources import SourceFile
from nnunet_xattnres.utils.errors import UserError


def files(*names):
    members = {name: name.partition(".zip/")[2] or None for name in names}
    return [SourceFile(name, Path("/data", name), member) for name, member in members.items()]


def found(*names, **patterns):
    """Path and name of the images and of the masks."""
    images, masks = find_images_and_masks(files(*names), **patterns)
    return {m.file.name: m.path for m in images}, {m.file.name: m.path for m in masks}


@pytest.mark.parametrize(
    ("pattern", "file", "path"),
    [
        # folders
        ("scans", "set/scans/1.png", "set/1"), ("scans", "scans/a/1.png", "a/1"), ("SCANS", "Scans/1.PNG", "1"),
        ("a/scans", "x/a/scans/1.png", "x/1"), ("a/scans", "scans/1.png", None), ("scans", "ascans/1.png", None),
        ("/scans", "scans/1.png", "1"), ("/scans", "x/scans/1.png", None),
        ("v1.0", "v1.0/1.png", "1"), ("./scans/", "scans/1.png", "1"), ("a\\scans", "a/scans/1.png", "1"),
        ("scans", "scans.zip/1.png", "1"),
        # the wildcards of file names
        ("*.png", "a/1.png", "a/1"), ("*.png", "1.tif", None), ("*.png", "1.jpg.png", "1.jpg"), ("*", "1.png", "1"),
        ("*.*", "1.png", "1"), ("*_m", "1_m.png", "1"), ("*_m.*", "1_m.png", "1"), ("*.nii.gz", "1.nii.gz", "1"),
        ("a?_*.png", "a1_2.png", "1_2"), ("s[0-9].png", "s3.png", "3"), ("s[!0-9].png", "s3.png", None),
        ("s[^0-9].png", "s3.png", None), ("s[^0-9].png", "sa.png", "a"), ("s[^a]1.png", "s/1.png", None),
        ("[!&&.-]1.png", "-1.png", None), ("[&&~].png", "~.png", "~"),
        ("*.{png,tif}", "1.tif", "1"), ("*.{png,tif}", "1.bmp", None), ("(a)+*.png", "(a)+1.png", "1"),
        ("scan.v1_*", "scan.v1_3.png", "3"),
        # the wildcards of folders
        ("*/image.png", "p1/image.png", "p1"), ("p*/image", "p1/image.png", "1"),
        ("image.png", "a/p1/image.png", "a/p1"),
        ("a/**/s/*.png", "a/s/1.png", "1"), ("a/**/s/*.png", "a/b/c/s/1.png", "b/c/1"), ("a/**", "a/b/1.png", "b/1"),
        ("images/*/*.png", "images/t/1.png", "t/1"), ("images/*.png", "images/t/1.png", None),
        # captures
        ("{case}_*.png", "1_2_3.png", "1_2"), ("{case}/{case}_t1.*", "p1/p1_t1.nii.gz", "p1"),
        ("{case}/{case}_t1.*", "p1/p2_t1.nii.gz", None), ("{split}/*/{case}.png", "train/x/1.png", "train/1"),
        ("{split}_images", "test_images/1.png", "test/1"), ("{split}_{case}", "train_a_1.png", "train/a_1"),
        # characters as macOS writes them
        ("gro\N{COMBINING DIAERESIS}ß", "größ/1.png", "1"),
    ],
)  # fmt: skip
def test_one_pattern(pattern, file, path):
    (file,) = files(file)
    match = Pattern(pattern).match(file)
    assert (match and match.path) == path


@pytest.mark.parametrize(
    ("text", "sources", "pattern"),
    [
        ("images", ["set"], "images"), ("set/images", ["set"], "/images"), ("./set/im*/{case}", ["set"], "/im*/{case}"),
        ("*.png", ["."], "*.png"), ("./images", ["."], "./images"),
        ("set/", ["set"], "/**"), ("set/b/*.png", ["set/a", "set/b"], "/b/*.png"), ("", ["."], ""),
        ("{root}/set/*.png", ["set"], "/*.png"), ("set2/images", ["set"], "set2/images"),
    ],
)  # fmt: skip
def test_a_path_to_the_source_becomes_relative_to_it(monkeypatch, tmp_path, text, sources, pattern):
    monkeypatch.chdir(tmp_path)
    text = text.replace("{root}", str(tmp_path))
    assert relative_pattern(text, [Path(source).resolve() for source in sources]) == pattern


@pytest.mark.parametrize("pattern", ["{patient}/*.png", "{}.png", "", "/", ".", "[z-a].png", "[9-0]/*.png"])
def test_invalid_patterns(pattern):
    with pytest.raises(UserError, match="expected"):
        Pattern(pattern).match(*files("a/1.png"))


def test_the_innermost_of_the_usual_folders():
    assert found("images/masks/1.png", "masks/original/1.png", "images/1.png", "other/1.png") == (
        {"masks/original/1.png": "1", "images/1.png": "1"},
        {"images/masks/1.png": "1"},
    )


@pytest.mark.parametrize(
    ("images", "masks", "is_mask"),
    [
        ("*.png", "*_m.png", True), ("*.png", "all/*_m.png", True), ("img_*.png", "*.png", False),
        (None, "*_m.png", True), ("*", "all", True), ("all", "*", False), ("all/*.png", "all/*.png", True),
    ],
)  # fmt: skip
def test_a_file_that_both_patterns_match(images, masks, is_mask):
    """It belongs to the pattern that says more of its path, so that no mask becomes an image."""
    assert [bool(part) for part in found("all/img_1_m.png", images=images, masks=masks)] == [not is_mask, is_mask]


def test_the_other_files_where_one_pattern_is_given():
    names = "a/1.png", "a/1_m.png", "notes.txt"
    assert found(*names, masks="*_m.png") == ({"a/1.png": "a/1", "notes.txt": "notes"}, {"a/1_m.png": "a/1"})
    assert found(*names, images="{case}.png") == (
        {"a/1.png": "a/1", "a/1_m.png": "a/1_m"}, {"notes.txt": "notes"}
    )  # fmt: skip
    # the usual folders come before other files
    assert found("images/1.png", "other/2.png", "m/1.png", masks="m") == ({"images/1.png": "1"}, {"m/1.png": "1"})
