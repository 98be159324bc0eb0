"""Folders and archives give the same files, are never changed, and cannot name files outside."""

import hashlib
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
from support import converted, downloads
from support.downloads import write_zip_with, zipped
from support.faults import check_listed, check_problems, parse_problem

from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import HashedFile, SourceFile, is_safe_name, scan
from nnunet_xattnres.utils.errors import UserError

CONTENT = {"images/1.png": b"one", "images/deep/2.PNG": b"two", "scan.nii.gz": b"three"}


@pytest.fixture
def folder(tmp_path):
    """A folder with these files, and with files that must be ignored."""
    for name, data in CONTENT.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for ignored in (".hidden", "Thumbs.db", "__MACOSX/1.png", ".git/x"):
        (tmp_path / "set" / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / ignored).write_bytes(b"ignored")
    return tmp_path / "set"


def test_folder_and_archive_have_the_same_files(folder, tmp_path):
    files, problems = scan([folder])
    assert {f.name: f.read() for f in files} == CONTENT and not problems
    archived, problems = scan([zipped(folder, tmp_path / "set.zip")])
    assert {f.name: f.read() for f in archived} == {f"set/{name}": data for name, data in CONTENT.items()}
    assert not problems
    with archived[0].on_disk() as path:
        assert path.read_bytes() == archived[0].read()
    assert not path.exists()


def test_names_of_files_in_several_sources(folder, tmp_path):
    files, _ = scan([folder, zipped(folder, tmp_path / "b.zip")])
    assert {f.name.split("/")[0] for f in files} == {"set", "b.zip"}
    assert len(files) == 2 * len(CONTENT)


def test_two_sources_of_one_name(tmp_path):
    for name in ("a/data", "b/data"):
        downloads.write_photos(tmp_path / name, [1], 1, lambda n: (8, 8))
    files, _ = scan([tmp_path / "a" / "data", tmp_path / "b" / "data"])
    assert {f.name for f in files} == {f"{s}/data/{kind}/1.png" for s in "ab" for kind in ("images", "masks")}
    with pytest.raises(UserError, match="twice"):
        scan([tmp_path / "a" / "data", tmp_path / "a" / "data"])


def test_a_copy_of_a_source(convert, tmp_path):
    """Equal names in two sources are two cases, and that their images are the same is said."""
    source = downloads.nuclei(tmp_path, 6)
    manifest = converted.read_manifest(
        convert("folder", source, shutil.copytree(source, tmp_path / "copy" / "more"), "--split", "1:0:1")
    )
    assert {r["case"] for r in manifest["cases"]} == {f"{s}_{n}" for s in (source.name, "more") for n in range(1, 7)}
    (note,) = (note for note in manifest["notes"] if "same image" in note)
    assert "12 cases" in note and "(train)" in note and "(test)" in note


@pytest.mark.parametrize(
    ("name", "stem", "ending", "folders"),
    [("a/b/c.nii.gz", "c", ".nii.gz", ("a", "b")), ("case0001.npy.h5", "case0001", ".npy.h5", ()),
     ("X.JPG", "X", ".jpg", ()), ("no", "no", "", ()), ("v1.2.png", "v1.2", ".png", ())],
)  # fmt: skip
def test_parts_of_names(tmp_path, name, stem, ending, folders):
    file = SourceFile(name, tmp_path)
    assert (file.stem, file.ending, file.folders) == (stem, ending, folders)


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "a\\b", ".hidden", "a:b", "a\nb", "a\0"])
def test_unsafe_names(name):
    assert not is_safe_name(name)


@pytest.mark.parametrize("name", ["1", "ISIC_0000000", "my scan (2)", "größe", "v1.2"])
def test_safe_names(name):
    assert is_safe_name(name)


def test_sources_without_files(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    write_zip_with(tmp_path / "empty.zip", {})
    good = downloads.nuclei(tmp_path, 1)
    for name in ("text.txt", "missing", "empty", "empty.zip"):
        with pytest.raises(UserError) as error:
            scan([tmp_path / name])
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(UserError, match=str(tmp_path / "missing")):
        scan([good, tmp_path / "missing"])


def test_a_source_that_does_not_exist(refuse_line, tmp_path):
    assert str(tmp_path / "missing") in refuse_line("folder", tmp_path / "missing")


class TestArchives:
    def archive(self, root, method=zipfile.ZIP_STORED):
        """An archive of six images and masks."""
        source = downloads.nuclei(root, 6)
        path = root / "Nuclei.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            for image in sorted(source.rglob("*.png")):
                file.write(image, image.relative_to(source))
        shutil.rmtree(source)
        return path

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data[: len(data) // 2],
            lambda data: data.replace(b"PK\x01\x02", b"XXXX"),
            lambda data: b"PK\x03\x04" + bytes(200),
        ],
        ids=["truncated", "damaged directory", "header only"],
    )
    def test_damaged_archives(self, refuse_line, tmp_path, change):
        path = self.archive(tmp_path)
        path.write_bytes(change(path.read_bytes()))
        assert str(path) in refuse_line("folder", path)

    @pytest.mark.parametrize(
        ("method", "change", "code"),
        [
            # change(data, start of the member's header, of its content, of its entry in the directory)
            (zipfile.ZIP_STORED, lambda d, h, c, e: d.__setitem__(slice(c + 100, c + 103), b"\xa5\x5a\xa5"), "damaged"),
            (zipfile.ZIP_DEFLATED, lambda d, h, c, e: d.__setitem__(slice(c, c + 4), b"\xff" * 4), "damaged"),
            (zipfile.ZIP_STORED, lambda d, h, c, e: [d.__setitem__(i, d[i] | 1) for i in (h + 6, e + 8)], "unreadable"),
            (zipfile.ZIP_STORED, lambda d, h, c, e: [d.__setitem__(i, 99) for i in (h + 8, e + 10)], "unreadable"),
        ],
        ids=["another byte", "broken compression", "encrypted", "unknown compression"],
    )
    def test_damaged_members(self, refuse, tmp_path, method, change, code):
        path, name = self.archive(tmp_path, method), "images/3.png"
        with zipfile.ZipFile(path) as file:
            header = file.getinfo(name).header_offset
        data = bytearray(path.read_bytes())
        name_length, extra_length = struct.unpack("<HH", data[header + 26 : header + 30])
        entry = data.rindex(name.encode()) - 46
        assert data[entry : entry + 4] == b"PK\x01\x02"
        change(data, header, header + 30 + name_length + extra_length, entry)
        path.write_bytes(data)
        check_listed(refuse("folder", path), [(name, code)])

    def test_reading_a_damaged_member(self, tmp_path):
        archive = write_zip_with(tmp_path / "a.zip", {"1.png": b"content content"})
        archive.write_bytes(archive.read_bytes().replace(b"content content", b"CONTENT CONTENT"))
        ((file,), _) = scan([archive])
        with pytest.raises(zipfile.BadZipFile), zipfile.ZipFile(archive) as opened:
            opened.read("1.png")
        with pytest.raises(UnusableError) as error:
            file.read()
        assert error.value.problem.code == "damaged"

    @pytest.mark.parametrize(
        "name", ["../evil.png", "images/../../evil.png", "..\\evil.png", "C:/evil.png", "{root}/evil.png", "/evil.png"]
    )
    def test_names_outside_the_archive(self, refuse, convert, tmp_path, capsys, name):
        path, name = self.archive(tmp_path), name.format(root=tmp_path)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(name, b"evil")
        expected = [(f"Nuclei.zip/{name}", "unsafe-path")]
        check_listed(refuse("folder", path), expected)
        convert("folder", path, "--skip-bad")
        lines = capsys.readouterr().err.splitlines()
        check_problems([parse_problem(line.removeprefix("skipped: ")) for line in lines], expected)
        assert not Path("/evil.png").exists() and not list(tmp_path.rglob("evil*"))

    def test_a_member_without_a_name(self, convert, tmp_path):
        path = self.archive(tmp_path)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(".", b"")
        convert("folder", path)


def test_links_to_folders(convert, tmp_path):
    source = downloads.nuclei(tmp_path, 4)
    (tmp_path / "links").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "links" / kind).symlink_to(source / kind)
    (tmp_path / "links" / "circle").symlink_to(tmp_path / "links")
    dataset = convert("folder", tmp_path / "links", "--split", "1:0:0")
    assert converted.case_names(dataset / "imagesTr") == {"1", "2", "3", "4"}


class TestReadingOnce:
    """An archive is opened once, and the content of a file is read once."""

    @pytest.fixture
    def archive(self, tmp_path):
        return write_zip_with(tmp_path / "a.zip", {f"{n}.png": b"%d" % n for n in range(5)})

    @pytest.fixture
    def opened(self, monkeypatch):
        """The files that zipfile opens."""
        opened = []

        class ZipFile(zipfile.ZipFile):
            def __init__(self, file, *arguments, **options):
                opened.append(file)
                super().__init__(file, *arguments, **options)

        monkeypatch.setattr(zipfile, "ZipFile", ZipFile)
        return opened

    def test_an_archive_is_opened_once(self, archive, opened):
        files, _ = scan([archive])
        assert [file.read() for file in files] == [b"0", b"1", b"2", b"3", b"4"]
        assert opened == [archive]

    def test_an_archive_that_is_replaced_is_opened_again(self, archive):
        ((file, *_), _) = scan([archive])
        assert file.read() == b"0"
        write_zip_with(archive, {"0.png": b"another"})
        assert file.read() == b"another"

    def test_a_part_of_a_file(self, archive, tmp_path):
        (tmp_path / "0.png").write_bytes(b"0")
        ((file, *_), _) = scan([archive])
        for source in (file, SourceFile("0.png", tmp_path / "0.png")):
            with source.open() as opened:
                assert opened.read(1) == b"0"

    @pytest.mark.parametrize("first", [HashedFile.read, HashedFile.sha256])
    def test_the_checksum_needs_no_second_read(self, archive, monkeypatch, first):
        ((source, *_), _) = scan([archive])
        file = HashedFile.of(source)
        first(file)
        monkeypatch.setattr(SourceFile, "read", lambda file: pytest.fail("the file is read again"))
        assert file.sha256() == hashlib.sha256(b"0").hexdigest()
        assert file == HashedFile.of(source)
