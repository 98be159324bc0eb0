"""Splits by the published lists, by seeded ratios and by split files, and nnU-Net's form of a split."""

import json

import pytest
from support import downloads

from nnunet_xattnres.convert.splits import make_folds, parse_ratio, published_list, read_split_file, split_by_ratio
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
    "path": ("a.csv", "../x,train\n", "../x"),
    "path in JSON": ("a.json", '{"train": ["/etc/x"]}', "/etc/x"),
    "hidden": ("a.csv", ".x,train\n", ".x"),
    "unknown split": ("a.csv", "1,train\n2,holdout\n", "holdout"),
    "unknown split in JSON": ("a.json", '{"train": ["1"], "dev": ["2"]}', "dev"),
    "case twice": ("a.csv", "1,train\n2,train\n1,test\n", "1 "),
    "case twice in JSON": ("a.json", '{"train": ["1", "2"], "test": ["1"]}', "1 "),
    "three columns": ("a.csv", "1,train,5\n", "CASE,SPLIT"),
    "semicolons": ("a.csv", "1;train\n", "CASE,SPLIT"),
    "broken JSON": ("a.json", '{"train": ["1"', '{"train": ['),
    "JSON list": ("a.json", '["1"]', '{"train": ['),
    "binary": ("a.csv", b"\xff\xfe\x00", "CASE,SPLIT"),
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
