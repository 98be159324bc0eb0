"""Splits by the published lists, by seeded ratios and by split files, and nnU-Net's form of a split."""

import json
from pathlib import Path

import pytest
from support import downloads

from nnunet_xattnres.convert.sources import SourceFile
from nnunet_xattnres.convert.splits import (
    assign_entries,
    make_folds,
    parse_ratio,
    published_list,
    read_split_file,
    split_by_ratio,
)
from nnunet_xattnres.utils.errors import UserError


@pytest.mark.parametrize(
    ("cases", "ratio", "expected"),
    [
        (612, (8, 1, 1), (490, 61, 61)), (380, (8, 1, 1), (304, 38, 38)), (1, (8, 1, 1), (1, 0, 0)),
        (10, (1, 0, 1), (5, 0, 5)), (0, (8, 1, 1), (0, 0, 0)), (7, (0.5, 0.25, 0.25), (3, 2, 2)),
    ],
)  # fmt: skip
def test_ratio(cases, ratio, expected):
    names = [f"n{i}" for i in range(cases)]
    splits = split_by_ratio(names, ratio, seed=3)
    counts = tuple(list(splits.values()).count(split) for split in ("train", "val", "test"))
    assert counts == expected and set(splits) == set(names)
    assert split_by_ratio(reversed(names), ratio, seed=3) == splits


def test_seeds_differ():
    names = list(map(str, range(50)))
    assert split_by_ratio(names, (8, 1, 1), 0) != split_by_ratio(names, (8, 1, 1), 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8:1:1", (8, 1, 1)), ("1:0:0", (1, 0, 0)), ("0:1:1", None), ("8:1", None), ("split.csv", None),
        ("8:-1:1", None), ("8:inf:1", None),
    ],
)  # fmt: skip
def test_parse_ratio(text, expected):
    assert parse_ratio(text) == expected


SPLIT_FILES = {
    "unknown split": ("a.csv", "1,train\n2,holdout\n", "holdout"),
    "unknown split in JSON": ("a.json", '{"train": ["1"], "dev": ["2"]}', "dev"),
    "case twice": ("a.csv", "1,train\n2,train\n1,test\n", "1 "),
    "case twice in JSON": ("a.json", '{"train": ["1", "2"], "test": ["1"]}', "1 "),
    "three columns": ("a.csv", "1,train,5\n", "CASE,SPLIT"),
    "no delimiter": ("a.csv", "1 train\n", "CASE,SPLIT"),
    "heading with an unknown name": ("a.csv", "1,traning\n2,train\n", "'traning'"),
    "Latin-1": ("a.csv", "f\xe4ll,train\n".encode("latin-1"), "UTF-8"),
    "broken JSON": ("a.json", '{"train": ["1"', '{"train": ['),
    "JSON list": ("a.json", '["1"]', '{"train": ['),
    "binary": ("a.csv", b"\xff\xfe\x00", "CASE,SPLIT"),
    "empty": ("a.csv", "", "CASE,SPLIT"),
    "only a heading": ("a.csv", "case,split\n", "CASE,SPLIT"),
    "a quotation that does not end": ("a.csv", '"1,train\n' + "2,train\n" * 20_000, "CASE,SPLIT"),
    "missing": ("a.csv", None, "CASE,SPLIT"),
}
"""Name, content, and a text that the error must contain: the entry that is wrong, or the form that is expected."""


@pytest.mark.parametrize("fault", SPLIT_FILES)
def test_split_files_with_faults(tmp_path, fault):
    name, content, text = SPLIT_FILES[fault]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_split_file(path)
    assert f"--split {path}" in str(error.value) and text in str(error.value)


BOM = "\N{BYTE ORDER MARK}"
SPLITS = {"ä1": "train", "b": "val", "c": "test"}
FORMS = {
    "byte order mark": (BOM + "ä1,train\nb,val\nc,test\n").encode(),
    "UTF-16, as PowerShell writes": (BOM + "ä1,train\r\nb,val\r\nc,test\r\n").encode("utf-16-le"),
    "UTF-16, big endian": (BOM + "ä1,train\nb,val\nc,test\n").encode("utf-16-be"),
    "semicolons and a heading": (BOM + "Image;Split\r\nä1;Training\r\nb;Validation\r\nc;Test\r\n").encode(),
    "tabs and spaces": "ä1 \t TRAIN\n\n b\tvalid\nc\ttesting".encode(),
    "decomposed characters, as macOS writes": "a\N{COMBINING DIAERESIS}1,train\nb,val\nc,test\n".encode(),
    "quotes, and a case that is named twice": b'"\xc3\xa41","train"\n"b","val"\n"c","test"\nb,val\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_split_files(tmp_path, form):
    (tmp_path / "split.csv").write_bytes(FORMS[form])
    assert read_split_file(tmp_path / "split.csv") == SPLITS


def test_json_with_a_byte_order_mark_and_other_names_of_splits(tmp_path):
    (tmp_path / "split.JSON").write_bytes((BOM + '{"Training": ["ä1"], "valid": ["b"], "TEST": ["c"]}').encode())
    assert read_split_file(tmp_path / "split.JSON") == SPLITS


def test_a_folder_of_lists(tmp_path):
    """The folder ImageSets/Segmentation of PASCAL VOC, where trainval.txt repeats the cases of others."""
    lists = {"train": "ä1\n", "val": "b\n\n", "test": "c", "trainval": "ä1\nb\n"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    assert read_split_file(tmp_path) == SPLITS


def assign(path, text, **cases):
    """Assign cases with these files of /data/set by a split file."""
    path.write_text(text)
    return assign_entries(path, {c: [SourceFile(n, Path("/data/set", n)) for n in names] for c, names in cases.items()})


TRAIN_AND_TEST = {
    "train/0": ["train/images/0.png", "train/masks/0_mask.png"],
    "test/0": ["test/images/0.png", "test/masks/0.png"],
}


@pytest.mark.parametrize(
    "entry",
    ["train/0", "train/images/0.png", "train/images/0", "train\\images\\0.png", "./train/masks/0_mask.png",
     "0_mask.png", "set/train/images/0.png", "/data/set/train/images/0.png", "../set/train/images/0.png"],
)  # fmt: skip
def test_entries_that_name_a_file_of_the_case(tmp_path, entry):
    assert assign(tmp_path / "s.csv", f"{entry},val\n", **TRAIN_AND_TEST) == ({"train/0": "val"}, {})


@pytest.mark.parametrize("entry", ["9", "/etc/0.png", "other/images/0.png", "mages/0.png", ".x", "../x", "C:\\0.png"])
def test_entries_that_name_no_case(tmp_path, entry):
    assert assign(tmp_path / "s.csv", f"{entry},val\n", **{"0": ["images/0.png", "masks/0.png"]}) == ({}, {entry: []})


def test_an_entry_that_names_two_cases(tmp_path):
    assert assign(tmp_path / "s.csv", "0.png,val\n", **TRAIN_AND_TEST) == ({}, {"0.png": ["test/0", "train/0"]})


def test_two_entries_for_a_case(tmp_path):
    cases = {"0": ["images/0.png"]}
    assert assign(tmp_path / "s.csv", "0.png,val\n0,val\n", **cases) == ({"0": "val"}, {})
    with pytest.raises(UserError, match="assigns 0 to val and to test"):
        assign(tmp_path / "s.csv", "0.png,val\n0,test\n", **cases)


def test_the_command_refuses_a_split_file_with_faults(refuse_line, tmp_path):
    (tmp_path / "a.csv").write_text("1,train\n1,test\n")
    assert "a.csv" in refuse_line("folder", downloads.nuclei(tmp_path, 6), "--split", tmp_path / "a.csv")


def test_folds():
    assert make_folds({"b": "train", "a": "train", "c": "val", "d": "test"}) == [{"train": ["a", "b"], "val": ["c"]}]
    assert make_folds({"a": "train", "d": "test"}) == []
    json.dumps(make_folds({"a": "train", "c": "val"}))


@pytest.mark.parametrize(("name", "frames"), [("colondb", 379), ("clinicdb", 612)])
def test_published_lists_name_every_frame_once(name, frames):
    assert set(published_list(name)) == {str(n) for n in range(1, frames + 1)}
