"""Ratios by seed, split files, and nnU-Net's form of a split."""

import json

import pytest

from nnunet_xattnres.convert.splits import by_ratio, folds, read_file, read_ratio
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
    splits = by_ratio(names, ratio, seed=3)
    counts = tuple(list(splits.values()).count(split) for split in ("train", "val", "test"))
    assert counts == expected and set(splits) == set(names)
    assert by_ratio(reversed(names), ratio, seed=3) == splits


def test_seeds_differ():
    names = list(map(str, range(50)))
    assert by_ratio(names, (8, 1, 1), 0) != by_ratio(names, (8, 1, 1), 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8:1:1", (8, 1, 1)), ("1:0:0", (1, 0, 0)), ("0:1:1", None), ("8:1", None), ("split.csv", None), ("8:-1:1", None)],
)
def test_ratio_in_words(text, expected):
    assert read_ratio(text) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "a,train\na,val", "names a twice"), ("s.csv", "a,holdout", "puts a into 'holdout'"),
        ("s.csv", "../a,train", "names '../a'"), ("s.csv", "a;train", "without exactly one comma"),
        ("s.json", '{"train": ["/etc/a"]}', "names '/etc/a'"), ("s.json", "[1]", "no object of lists"),
        ("s.json", "{", "cannot be read"), ("none.csv", None, "cannot be read"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / name)


def test_folds():
    assert folds({"b": "train", "a": "train", "c": "val", "d": "test"}) == [{"train": ["a", "b"], "val": ["c"]}]
    assert folds({"a": "train", "d": "test"}) == []
    json.dumps(folds({"a": "train", "c": "val"}))
