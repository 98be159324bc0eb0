"""A file is written in full or not at all, and what is no JSON object is told in one line."""

import errno
import os
from pathlib import Path

import pytest

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.files import read_json, write_whole


@pytest.mark.parametrize("old", [None, "old and longer than the new one"])
def test_write(tmp_path, old):
    path = tmp_path / "scores.json"
    if old:
        path.write_text(old)
    write_whole(path, "new\n")
    assert path.read_text() == "new\n"
    assert list(tmp_path.iterdir()) == [path]


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def half(path, text):
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
    full_disk()


def interrupted(path, text):
    path.touch()
    raise KeyboardInterrupt


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(
    ("where", "name", "function", "error"),
    [
        (os, "replace", full_disk, UserError),
        (Path, "write_text", half, UserError),
        (Path, "write_text", interrupted, KeyboardInterrupt),
    ],
)
def test_a_write_that_fails(tmp_path, monkeypatch, where, name, function, error, old):
    path = tmp_path / "scores.json"
    if old:
        path.write_text(old)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, function)
        with pytest.raises(error) as raised:
            write_whole(path, "new content")
    if error is UserError:
        assert str(raised.value) == f"cannot write {path} (No space left on device): choose another place or make room"
    assert [p.name for p in tmp_path.iterdir()] == (["scores.json"] if old else [])
    assert not old or path.read_text() == old


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"^cannot write .*missing/scores.json \(No such file or directory\)"):
        write_whole(tmp_path / "missing" / "scores.json", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["folder", "."])
def test_a_folder(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^cannot write .* \(.*\)"):
        write_whole(Path(name), "new")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_read(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text('{"labels": {"background": 0}}')
    assert read_json(path, "a dataset.json") == {"labels": {"background": 0}}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r" \(.*No such file or directory.*\): mend it or name another"),
        (b"", r" \(Expecting value: line 1 column 1 \(char 0\)\): mend it or name another"),
        (b'{"a": 1', r" \(Expecting ',' delimiter: .*\): mend it or name another"),
        (b"\xff\xfe\x00", r" \(.*codec can't decode.*\): mend it or name another"),
        (b"[1]", ": expected an object, got list"),
        (b'"a"', ": expected an object, got str"),
        (b"null", ": expected an object, got NoneType"),
    ],
)
def test_no_object(tmp_path, content, told):
    path = tmp_path / "dataset.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} cannot be read as a dataset.json{told}$") as error:
        read_json(path, "a dataset.json")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"cannot be read as a dataset.json \(.*Is a directory"):
        read_json(tmp_path, "a dataset.json")
