"""The plan of a conversion: what a layout found in the source."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .case import Reader, SourceCase
from .case_names import choose_case_names
from .problems import Problem, ProblemCode
from .sources import SourceFile

VoxelCounts = Mapping[int, int]
"""Number of voxels by label, over all cases."""


@dataclass
class Plan:
    """Everything that `dataset.convert` needs to know about a data set.

    Attributes:
        title: the data set's name in reports.
        name: default name of the nnU-Net dataset.
        cases: all cases that can be converted, as far as their file names tell; names that nnU-Net cannot keep are
            replaced.
        reader: the reader for these cases.
        labels: label by name, as in nnU-Net's dataset.json.
        channel_names: names of the image channels, as in nnU-Net's dataset.json.
        split: description of how the cases were assigned to train, val and test.
        problems: problems of the source as a whole, and of files that belong to no case.
        notes: facts that the user should know and that are not problems.
        check: function that returns the problems of the data set as a whole, by the number of voxels of every label.
    """

    title: str
    name: str
    cases: list[SourceCase]
    reader: Reader
    labels: Mapping[str, int]
    channel_names: Sequence[str]
    split: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    check: Callable[[VoxelCounts], list[Problem]] = lambda counts: []

    def __post_init__(self) -> None:
        names = choose_case_names(case.name for case in self.cases)
        self.cases = [
            replace(case, name=names[case.name], source_name=case.name) if names[case.name] != case.name else case
            for case in self.cases
        ]


class FilesByCase(dict[str, SourceFile]):
    """Files by the name of their case; where several files share a name, they are in `duplicates` instead."""

    def __init__(self, files: Iterable[SourceFile], case_of: Callable[[SourceFile], str] = lambda file: file.stem):
        by_case: dict[str, list[SourceFile]] = {}
        for file in files:
            by_case.setdefault(case_of(file), []).append(file)
        super().__init__({case: same[0] for case, same in by_case.items() if len(same) == 1})
        self.duplicates = {case: same for case, same in by_case.items() if len(same) > 1}

    def problems(self, hint: str = "keep one of them") -> list[Problem]:
        """One problem for every case name that several files have; `hint` says what to do."""
        problems = []
        for case, (first, *others) in self.duplicates.items():
            names = ", ".join(file.name for file in others)
            text = f"the file has the same case name ({case}) as {names}; {hint}"
            problems.append(Problem(first.name, ProblemCode.DUPLICATE, text))
        return problems


def pair(images: FilesByCase, masks: FilesByCase, hint: str = "keep one of them") -> tuple[list[str], list[Problem]]:
    """Match images with masks; `hint` says what to do about files that share a name.

    Returns:
        The names of the cases that have both, and a problem for every other file.
    """
    duplicates = images.duplicates.keys() | masks.duplicates.keys()
    problems = images.problems(hint) + masks.problems(hint)
    for files, others, code, text in (
        (images, masks, ProblemCode.MASK_MISSING, "the image has no mask"),
        (masks, images, ProblemCode.IMAGE_MISSING, "the mask has no image"),
    ):
        unpaired = sorted(files.keys() - others.keys() - duplicates)
        problems += [Problem(files[name].name, code, text) for name in unpaired]
    return sorted(images.keys() & masks.keys()), problems


def describe_split(cases: Iterable[SourceCase]) -> str:
    """The number of cases by split.

    >>> describe_split([SourceCase("a", "train", ()), SourceCase("b", "train", ()), SourceCase("c", "test", ())])
    '2 training, 0 validation, 1 test'
    """
    counts = Counter(case.split for case in cases)
    titles = {"train": "training", "val": "validation", "test": "test"}
    return ", ".join(f"{counts[split]} {title}" for split, title in titles.items())
