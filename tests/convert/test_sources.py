"""Folders and archives look alike, are only read, and cannot name anything outside."""

import zipfile

import pytest
from support.downloads import write_zip_with, zipped

from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import File, is_safe, scan
from nnunet_xattnres.utils.errors import UserError

CONTENT = {"images/1.png": b"one", "images/deep/2.PNG": b"two", "scan.nii.gz": b"three"}


@pytest.fixture
def folder(tmp_path):
    for name, data in CONTENT.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for clutter in (".hidden", "Thumbs.db", "__MACOSX/1.png", ".git/x"):
        (tmp_path / "set" / clutter).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / clutter).write_bytes(b"clutter")
    return tmp_path / "set"


def test_folder_and_archive_alike(folder, tmp_path):
    files, problems = scan([folder])
    assert {f.name: f.read() for f in files} == CONTENT and not problems
    archived, problems = scan([zipped(folder, tmp_path / "set.zip")])
    assert {f.name: f.read() for f in archived} == {f"set/{name}": data for name, data in CONTENT.items()}
    assert not problems
    with archived[0].local() as path:
        assert path.read_bytes() == archived[0].read()
    assert not path.exists()


def test_several_sources_are_told_apart(folder, tmp_path):
    files, _ = scan([folder, zipped(folder, tmp_path / "b.zip")])
    assert {f.name.split("/")[0] for f in files} == {"set", "b.zip"}
    assert len(files) == 2 * len(CONTENT)


@pytest.mark.parametrize(
    ("name", "stem", "ending", "folders"),
    [("a/b/c.nii.gz", "c", ".nii.gz", ("a", "b")), ("case0001.npy.h5", "case0001", ".npy.h5", ()),
     ("X.JPG", "X", ".jpg", ()), ("no", "no", "", ()), ("v1.2.png", "v1.2", ".png", ())],
)  # fmt: skip
def test_names(tmp_path, name, stem, ending, folders):
    file = File(name, tmp_path)
    assert (file.stem, file.ending, file.folders) == (stem, ending, folders)


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "..\\evil.png"])
def test_names_that_leave_the_archive(tmp_path, name):
    (tmp_path / "in").mkdir(exist_ok=True)
    archive = write_zip_with(tmp_path / "in" / "a.zip", {"good.png": b"x", name: b"y"})
    files, (problem,) = scan([archive])
    assert [f.name for f in files] == ["good.png"]
    assert problem.file.startswith("a.zip/") and "leaves the archive" in problem.text
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "a\\b", ".hidden", "a:b", "a\nb", "a\0"])
def test_unsafe(name):
    assert not is_safe(name)


@pytest.mark.parametrize("name", ["1", "ISIC_0000000", "my scan (2)", "größe", "v1.2"])
def test_safe(name):
    assert is_safe(name)


def test_bad_sources(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("text.txt", "neither a folder nor a zip"),
        ("none", "does not exist"),
        ("empty", "no files"),
    ):
        with pytest.raises(UserError, match=message):
            scan([tmp_path / name])


def test_a_damaged_member(tmp_path):
    archive = write_zip_with(tmp_path / "a.zip", {"1.png": b"content content"})
    archive.write_bytes(archive.read_bytes().replace(b"content content", b"CONTENT CONTENT"))
    ((file,), _) = scan([archive])
    with pytest.raises(zipfile.BadZipFile), zipfile.ZipFile(archive) as opened:
        opened.read("1.png")
    with pytest.raises(UnusableError, match="CRC"):
        file.read()
