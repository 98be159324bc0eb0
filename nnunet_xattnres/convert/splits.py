"""Assign cases to train, val and test: by the published lists, by a seeded ratio, or by a file."""

import csv
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..utils.errors import UserError
from .case import SPLITS
from .sources import is_safe_name

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
    with (files(__package__) / "lists" / f"{name}.csv").open() as file:
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
    """Read a split file: JSON `{"train": [...], "val": [...], "test": [...]}`, or lines `case,split`.

    Returns:
        Split by case name.

    Raises:
        UserError: if it cannot be read, a name cannot be a file name, or a case is named twice.
    """
    try:
        text = path.read_text()
        pairs = _parse_json(text) if path.suffix == ".json" else _parse_lines(text)
    except (OSError, ValueError) as error:
        form = 'expected a ratio A:B:C, lines CASE,SPLIT, or JSON {"train": [...], "val": [...], "test": [...]}'
        raise UserError(f"--split {path} cannot be read ({error}): {form}") from None
    splits: dict[str, str] = {}
    for name, split in pairs:
        if not is_safe_name(name):
            raise UserError(f"--split {path} names {name!r}: expected a file name without folders and ending")
        if split not in SPLITS:
            raise UserError(f"--split {path} assigns {name} to {split!r}: expected {', '.join(SPLITS)}")
        if name in splits:
            raise UserError(f"--split {path} names {name} twice: keep one of the entries")
        splits[name] = split
    return splits


def _parse_json(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, Mapping) or not all(isinstance(names, list) for names in content.values()):
        raise ValueError("not an object of lists")
    return [(str(name), split) for split, names in content.items() for name in names]


def _parse_lines(text: str) -> list[tuple[str, str]]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError("a line does not have exactly one comma")
    pairs = [(name.strip(), split.strip()) for name, split in rows]
    return pairs[1:] if pairs and pairs[0][1] == "split" else pairs


def make_folds(splits: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """The content of nnU-Net's splits_final.json: one fold, or none if there are no validation cases.

    >>> make_folds({"a": "train", "b": "val", "c": "test"})
    [{'train': ['a'], 'val': ['b']}]
    """
    fold = {split: sorted(name for name, s in splits.items() if s == split) for split in ("train", "val")}
    return [fold] if fold["val"] else []
