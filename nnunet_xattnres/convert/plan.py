"""What a layout found in a source: all that is needed to convert it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .case import Case, Reader
from .problems import Problem
from .sources import File

Counts = Mapping[int, int]


@dataclass
class Plan:
    """A data set before its conversion.

    Attributes:
        title: of the data set, for people.
        name: of the nnU-Net dataset, unless the user gives another.
        cases: all of them.
        reader: of these cases.
        labels, channel_names: as in nnU-Net's dataset.json.
        split: how the cases were split, in words.
        problems: what is wrong with the source as a whole, and with files that became no case.
        notes: what the user should know and nothing is wrong with.
        check: what is wrong with the data set as a whole, by the voxels of every label in all its cases.
    """

    title: str
    name: str
    cases: list[Case]
    reader: Reader
    labels: Mapping[str, int]
    channel_names: Sequence[str]
    split: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    check: Callable[[Counts], list[Problem]] = lambda counts: []


class FilesByCase(dict[str, File]):
    """Files by the name of their case; files that share a name are in `ambiguous` instead."""

    def __init__(self, files: Iterable[File], name: Callable[[File], str] = lambda file: file.stem):
        found: dict[str, list[File]] = {}
        for file in files:
            found.setdefault(name(file), []).append(file)
        super().__init__({case: same[0] for case, same in found.items() if len(same) == 1})
        self.ambiguous = {case: same for case, same in found.items() if len(same) > 1}

    def problems(self) -> list[Problem]:
        """One for every name that several files have."""
        return [
            Problem(first.name, f"names the case {case}, as {', '.join(f.name for f in others)} does: keep one of them")
            for case, (first, *others) in self.ambiguous.items()
        ]


def pair(images: FilesByCase, masks: FilesByCase) -> tuple[list[str], list[Problem]]:
    """The cases that have an image and a mask, and what is wrong with the others."""
    ambiguous = images.ambiguous.keys() | masks.ambiguous.keys()
    problems = images.problems() + masks.problems()
    sides = (("an image without a mask", images, masks), ("a mask without an image", masks, images))
    for text, files, others in sides:
        problems += [Problem(files[name].name, text) for name in sorted(files.keys() - others.keys() - ambiguous)]
    return sorted(images.keys() & masks.keys()), problems


def tell_split(cases: Iterable[Case]) -> str:
    """Numbers of cases per split, in words."""
    counts = Counter(case.split for case in cases)
    names = {"train": "training", "val": "validation", "test": "test"}
    return ", ".join(f"{counts[split]} {title}" for split, title in names.items())
