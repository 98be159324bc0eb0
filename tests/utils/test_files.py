"""Atomic writing, and reading of JSON objects with errors of one line."""

import errno
import json
import os
from pathlib import Path

import pytest

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.files import new_folder, read_json, replaced_file, sha256, write_atomic


@pytest.mark.parametrize("old", [None, "old and longer than the new one"])
def test_writes_the_new_content_and_leaves_no_other_file(tmp_path, old):
    path = tmp_path / "scores.json"
    if old:
        path.write_text(old)
    write_atomic(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()  # in every locale
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "weights.nii.gz"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replaced_file(path) as temporary:
        assert temporary.name.endswith(path.name)  # the ending says the format
        temporary.write_text("new")
        assert path.read_text() == "old"
    with replaced_file(path):
        pass  # nothing to write
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_after_half(path, text, **_):
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
    full_disk()


def interrupted(path, text, **_):
    path.touch()
    raise KeyboardInterrupt


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(
    ("owner", "name", "function", "error"),
    [
        (os, "replace", full_disk, UserError),
        (Path, "write_text", full_disk_after_half, UserError),
        (Path, "write_text", interrupted, KeyboardInterrupt),
    ],
)
def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch, owner, name, function, error, old):
    path = tmp_path / "scores.json"
    if old:
        path.write_text(old)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, function)
        with pytest.raises(error) as raised:
            write_atomic(path, "new content")
    if error is UserError:
        assert str(path) in str(raised.value)
        assert os.strerror(errno.ENOSPC) in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == (["scores.json"] if old else [])
    assert not old or path.read_text() == old


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"missing/scores.json.*No such file or directory"):
        write_atomic(tmp_path / "missing" / "scores.json", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["folder", "."])
def test_a_folder_under_this_name(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=str(Path(name).resolve())):
        write_atomic(Path(name), "new")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "scores.json").write_text("old")
    (tmp_path / "link").symlink_to("scores.json")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "scores.json").read_text() == "new"


def test_a_device_is_written_to_directly():
    write_atomic(Path("/dev/null"), "new")
    assert not Path("/dev/null").is_file()


def test_reads_an_object(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text('{"labels": {"background": 0}}')
    assert read_json(path, "a dataset.json") == {"labels": {"background": 0}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_json(tmp_path, encoding):
    """Windows' editors add a byte order mark, and PowerShell writes UTF-16."""
    content = {"name": "\N{LATIN SMALL LETTER U WITH DIAERESIS}"}
    path = tmp_path / "dataset.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert read_json(path, "a dataset.json") == content


def test_text_with_bytes_of_file_names(tmp_path):
    write_atomic(tmp_path / "scores.csv", os.fsdecode(b"caf\xe9\n"))
    assert (tmp_path / "scores.csv").read_bytes() == b"caf\\udce9\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "line 1 column 1"),
        (b'{"a": 1', "delimiter"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[1]", "list"),
        (b'"a"', "str"),
        (b"null", "NoneType"),
        ('{"label": "\N{LATIN SMALL LETTER U WITH DIAERESIS}"}'.encode("latin-1"), "codec can't decode"),
    ],
)
def test_a_file_that_holds_no_object(tmp_path, content, reason):
    """The error has one line with the file, the description and what is wrong."""
    path = tmp_path / "dataset.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} .*a dataset.json.*{reason}") as error:
        read_json(path, "a dataset.json")
    assert "\n" not in str(error.value)


def test_a_folder_is_no_json_file(tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path} .*Is a directory"):
        read_json(tmp_path, "a dataset.json")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # the example of FIPS 180-2, B.1
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_folder(tmp_path, exists):
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        inode = out.stat().st_ino
    with new_folder(out) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("b")
        assert not out.exists() or [path.name for path in out.iterdir()] == [temporary.name]
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and [path.name for path in out.iterdir()] == ["sub"]
    assert (out / "sub" / "a").read_text() == "b"
    assert not exists or out.stat().st_ino == inode  # it could be a mounted volume


def test_a_folder_that_fails_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("b")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_has_no_content_before(tmp_path):
    (tmp_path / "a").touch()
    for path in (tmp_path, tmp_path / "a"):
        with pytest.raises(UserError, match=f"^-o {path} exists"), new_folder(path):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
