"""Which case trains, validates and tests: published lists, seeded ratios, and files of the user's own."""

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
from .sources import is_safe

PAPER_RATIO = (8, 1, 1)


@dataclass(frozen=True)
class Entry:
    """A line of a published list; `slices` where it gives their number."""

    split: str
    slices: int | None = None


def published(name: str) -> dict[str, Entry]:
    """The published list of a data set, `synapse`, `colondb` or `clinicdb`, by case."""
    with (files(__package__) / "lists" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {r["case"]: Entry(r["split"], int(r["slices"]) if r.get("slices") else None) for r in rows}


def by_ratio(names: Iterable[str], ratio: Sequence[float], seed: int) -> dict[str, str]:
    """Split names at random in a ratio train:val:test; the same names and seed give the same split.

    Numbers are rounded by largest remainder, so that 612 in 8:1:1 make 490, 61 and 61.
    """
    order = sorted(names)
    random.Random(seed).shuffle(order)
    shares = [len(order) * part / sum(ratio) for part in ratio]
    counts = [int(share) for share in shares]
    remainders = sorted(range(len(ratio)), key=lambda i: counts[i] - shares[i])
    for i in remainders[: len(order) - sum(counts)]:
        counts[i] += 1
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(order, splits, strict=True))


def read_ratio(text: str) -> tuple[float, ...] | None:
    """The numbers of TRAIN:VAL:TEST such as 8:1:1, None if it is something else."""
    try:
        ratio = tuple(float(part) for part in text.split(":"))
    except ValueError:
        return None
    usable = len(ratio) == len(SPLITS) and all(0 <= part < math.inf for part in ratio) and ratio[0] > 0
    return ratio if usable else None


def read_file(path: Path) -> dict[str, str]:
    """A split file by case: JSON `{"train": [...], "val": [...], "test": [...]}`, or lines `case,split`.

    Raises:
        UserError: if it cannot be read, a name is no file's name, or a case stands in it twice.
    """
    try:
        text = path.read_text()
        pairs = _json_pairs(text) if path.suffix == ".json" else _line_pairs(text)
    except (OSError, ValueError) as error:
        form = 'expected a ratio A:B:C, lines CASE,SPLIT, or JSON {"train": [...], "val": [...], "test": [...]}'
        raise UserError(f"--split {path} cannot be read ({error}): {form}") from None
    splits: dict[str, str] = {}
    for name, split in pairs:
        if not is_safe(name):
            raise UserError(f"--split {path} names {name!r}: expected the name of a file without folders and ending")
        if split not in SPLITS:
            raise UserError(f"--split {path} puts {name} into {split!r}: expected {', '.join(SPLITS)}")
        if name in splits:
            raise UserError(f"--split {path} names {name} twice")
        splits[name] = split
    return splits


def _json_pairs(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, Mapping) or not all(isinstance(names, list) for names in content.values()):
        raise ValueError("no object of lists")
    return [(str(name), split) for split, names in content.items() for name in names]


def _line_pairs(text: str) -> list[tuple[str, str]]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if any(len(row) != 2 for row in rows):
        raise ValueError("a line without exactly one comma")
    pairs = [(name.strip(), split.strip()) for name, split in rows]
    return pairs[1:] if pairs and pairs[0][1] == "split" else pairs


def folds(cases: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json of a split by case: one fold, or none where nothing validates."""
    fold = {split: sorted(name for name, s in cases.items() if s == split) for split in ("train", "val")}
    return [fold] if fold["val"] else []
