"""Pairing images with masks, and names that several files have."""

from pathlib import Path

from nnunet_xattnres.convert.plan import FilesByCase, pair
from nnunet_xattnres.convert.sources import File


def files(*names):
    return [File(name, Path(name)) for name in names]


def test_pairs_and_what_is_alone():
    images, masks = FilesByCase(files("i/1.png", "i/2.png")), FilesByCase(files("m/2.png", "m/3.bmp"))
    names, problems = pair(images, masks)
    assert names == ["2"]
    assert list(map(str, problems)) == ["i/1.png: an image without a mask", "m/3.bmp: a mask without an image"]


def test_a_name_twice_is_told_once():
    images, masks = FilesByCase(files("i/1.png", "i/1.jpg", "i/2.png")), FilesByCase(files("m/1.png", "m/2.png"))
    names, (problem,) = pair(images, masks)
    assert names == ["2"]
    assert str(problem) == "i/1.png: names the case 1, as i/1.jpg does: keep one of them"
