"""Images are matched with masks, and files that share a name are reported once."""

from pathlib import Path

from nnunet_xattnres.convert.plan import FilesByCase, pair
from nnunet_xattnres.convert.sources import SourceFile


def files(*names):
    return FilesByCase(SourceFile(name, Path(name)) for name in names)


def test_files_without_a_counterpart():
    names, problems = pair(files("i/1.png", "i/2.png"), files("m/2.png", "m/3.bmp"))
    assert names == ["2"]
    assert [(p.file, p.code) for p in problems] == [("i/1.png", "mask-missing"), ("m/3.bmp", "image-missing")]


def test_a_name_that_two_files_have():
    names, (problem,) = pair(files("i/1.png", "i/1.jpg", "i/2.png"), files("m/1.png", "m/2.png"))
    assert names == ["2"]
    assert (problem.file, problem.code) == ("i/1.png", "duplicate") and "i/1.jpg" in problem.text
