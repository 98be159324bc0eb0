"""Assign cases to train, val and test: by the published lists, by a seeded ratio, or by a file."""

import codecs
import csv
import json
import math
import os
import random
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..utils.errors import UserError
from .case import SPLITS
from .case_names import readable_text
from .sources import SourceFile

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""The split by the names, in lower case, that folders and split files have for it."""

_HEADINGS = {"split", "set", "subset", "partition"}
PAPER_RATIO = (8, 1, 1)
"""The paper's ratio train:val:test of the polyp data sets."""


@dataclass(frozen=True)
class ListedCase:
    """A case on a published list.

    Attributes:
        split: "train", "val" or "test".
        slices: its number of slices, where the list has it.
    """

    split: str
    slices: int | None = None


def published_list(name: str) -> dict[str, ListedCase]:
    """The published list of `synapse`, `colondb` or `clinicdb`, by case name.

    >>> published_list("synapse")["case0005"]
    ListedCase(split='train', slices=117)
    """
    with (files(__package__) / "lists" / f"{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["case"]: ListedCase(row["split"], int(row["slices"]) if row.get("slices") else None) for row in rows}


def split_by_ratio(names: Iterable[str], ratio: Sequence[float], seed: int) -> dict[str, str]:
    """Split names at random in a ratio train:val:test; the same names and the same seed give the same split.

    The numbers are rounded by the largest remainder.

    >>> split_by_ratio("abcde", (3, 1, 1), seed=0)
    {'c': 'train', 'b': 'train', 'a': 'train', 'e': 'val', 'd': 'test'}
    """
    order = sorted(names)
    random.Random(seed).shuffle(order)
    shares = [len(order) * part / sum(ratio) for part in ratio]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(ratio)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: len(order) - sum(counts)]:
        counts[i] += 1
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, splits, strict=True))


def parse_ratio(text: str) -> tuple[float, ...] | None:
    """The numbers of TRAIN:VAL:TEST, or None if the text is something else.

    >>> parse_ratio("8:1:1"), parse_ratio("split.csv")
    ((8.0, 1.0, 1.0), None)
    """
    try:
        ratio = tuple(float(part) for part in text.split(":"))
    except ValueError:
        return None
    valid = len(ratio) == len(SPLITS) and all(0 <= part < math.inf for part in ratio) and ratio[0] > 0
    return ratio if valid else None


def read_split_file(path: Path) -> dict[str, str]:
    """Read a split file.

    Args:
        path: JSON `{"train": [...], "val": [...], "test": [...]}`, lines `case,split`, or a folder with a list of cases
            in each of train.txt, val.txt and test.txt.

    Returns:
        Split by entry, as the file names the case.

    Raises:
        UserError: if it cannot be read, or assigns a case to several splits or to an unknown one.
    """
    try:
        if path.is_dir():
            lists = [file for file in sorted(path.glob("*.txt")) if file.stem.casefold() in SPLIT_NAMES]
            pairs = [(line, file.stem) for file in lists for line in _read_text(file).splitlines()]
        else:
            text = _read_text(path)
            pairs = _parse_json(text) if path.suffix.lower() == ".json" else _parse_lines(text)
    except (OSError, ValueError, csv.Error) as error:
        form = 'expected a ratio A:B:C, lines CASE,SPLIT, or JSON {"train": [...], "val": [...], "test": [...]}'
        raise UserError(f"--split {path} cannot be read ({error}): {form}, in UTF-8") from None
    splits: dict[str, str] = {}
    for entry, name in ((entry.strip(), name) for entry, name in pairs if entry.strip()):
        if name.casefold() not in SPLIT_NAMES:
            raise UserError(f"--split {path} assigns {entry} to {name!r}: expected {', '.join(SPLITS)}")
        split = SPLIT_NAMES[name.casefold()]
        if splits.setdefault(entry, split) != split:
            raise UserError(
                f"--split {path} names {entry} twice, for {splits[entry]} and {split}: keep one of the entries"
            )
    if not splits:
        raise UserError(f"--split {path} names no case: expected lines CASE,SPLIT, or train.txt, val.txt and test.txt")
    return splits


def _read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with the byte order mark that Windows programs write."""
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return unicodedata.normalize("NFC", data.decode("utf-16" if is_utf16 else "utf-8-sig"))


def _parse_json(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, Mapping) or not all(isinstance(names, list) for names in content.values()):
        raise ValueError("not an object of lists")
    return [(str(name), split) for split, names in content.items() for name in names]


def _parse_lines(text: str) -> list[tuple[str, str]]:
    """The rows of a table with commas, semicolons or tabs; a heading is left out."""
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = next((d for d in ",;\t" if lines and d in lines[0]), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if any(len(row) != 2 for row in rows):
        raise ValueError("a line does not have exactly two columns")
    rows = rows[1:] if rows and rows[0][1].casefold() in _HEADINGS else rows
    return [(name, split) for name, split in rows]


def assign_entries(
    path: Path, cases: Mapping[str, Iterable[SourceFile]]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Assign cases to splits by a split file.

    An entry is the name of a case, or the end of the path of one of its files, with or without the ending.

    Args:
        path: the split file.
        cases: the files of every case, by its name.

    Returns:
        Split by case, and for every entry that names none or several cases, the cases that it can be.

    Raises:
        UserError: as `read_split_file` does.
    """
    entries = read_split_file(path)
    names = {entry: re.sub(r"^(\.{1,2}/)+", "", entry.replace("\\", "/")) for entry in entries}
    named: dict[str, set[str]] = {name: set() for name in names.values()}
    for case, case_files in cases.items():
        for file in case_files:
            name = os.path.abspath(file.path) + (f"/{file.member}" if file.member else "")
            name = readable_text(name.replace("\\", "/"))
            for end in (name, name[: len(name) - len(file.ending)]):
                while end:
                    if end in named:
                        named[end].add(case)
                    end = end.partition("/")[2]
    splits: dict[str, str] = {}
    unused: dict[str, list[str]] = {}
    for entry, split in entries.items():
        candidates = {entry} & cases.keys() or named[names[entry]]
        if len(candidates) != 1:
            unused[entry] = sorted(candidates)
            continue
        (case,) = candidates
        if splits.setdefault(case, split) != split:
            raise UserError(f"--split {path} assigns {case} to {splits[case]} and to {split}: keep one of them")
    return splits, unused


def make_folds(splits: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """The content of nnU-Net's splits_final.json: one fold, or none if there are no validation cases.

    >>> make_folds({"a": "train", "b": "val", "c": "test"})
    [{'train': ['a'], 'val': ['b']}]
    """
    fold = {split: sorted(name for name, s in splits.items() if s == split) for split in ("train", "val")}
    return [fold] if fold["val"] else []
