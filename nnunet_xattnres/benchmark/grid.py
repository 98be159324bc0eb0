"""The grid of a benchmark: trainers on datasets, configurations, plans and folds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from ..utils.errors import UserError

FOLDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, order=True)
class ExperimentKey:
    """Dataset, configuration and plans: what two trainings must have in common to be compared.

    >>> print(ExperimentKey("Dataset004_Hippocampus", "2d", "nnUNetPlans"))
    Dataset004_Hippocampus, 2d, nnUNetPlans
    """

    dataset: str
    configuration: str
    plans: str

    def __str__(self) -> str:
        return f"{self.dataset}, {self.configuration}, {self.plans}"


@dataclass(frozen=True, order=True)
class Run:
    """One training by `nnUNetv2_train`.

    Attributes:
        experiment: dataset, configuration and plans.
        trainer: name of the trainer class.
        fold: 0, 1, ...; "all" is not supported, because it has no validation cases of its own.
        repeat: 0, 1, ...; repeats differ by chance, because nnU-Net takes no seed.
    """

    experiment: ExperimentKey
    trainer: str
    fold: int
    repeat: int = 0

    def __str__(self) -> str:
        return f"{self.experiment}: {self.short_name}"

    @property
    def short_name(self) -> str:
        """Trainer, fold and repeat, without the experiment."""
        return f"{self.trainer}, fold {self.fold}{self.repeat_suffix}"

    @property
    def repeat_suffix(self) -> str:
        """ ", repeat 1", or nothing for the first training."""
        return f", repeat {self.repeat}" if self.repeat else ""


@dataclass(frozen=True)
class Grid:
    """All trainings of a benchmark: the product of these lists. The first trainer is the baseline.

    >>> grid = Grid(["Dataset004_Hippocampus"], ["nnUNetTrainer", "nnUNetTrainerXAttnRes"], folds=[0, 1])
    >>> [run.short_name for run in grid.runs()]  # doctest: +NORMALIZE_WHITESPACE
    ['nnUNetTrainer, fold 0', 'nnUNetTrainerXAttnRes, fold 0',
     'nnUNetTrainer, fold 1', 'nnUNetTrainerXAttnRes, fold 1']

    Attributes:
        datasets: full names such as Dataset004_Hippocampus.
        trainers: names of trainer classes.
        configurations: names of configurations in the plans.
        plans: names of plans.
        folds: numbers.
        repeats: number of trainings of each combination.
    """

    datasets: Sequence[str]
    trainers: Sequence[str]
    configurations: Sequence[str] = ("2d",)
    plans: Sequence[str] = ("nnUNetPlans",)
    folds: Sequence[int] = FOLDS
    repeats: int = 1

    @property
    def baseline(self) -> str:
        return self.trainers[0]

    def experiments(self) -> list[ExperimentKey]:
        return [ExperimentKey(*names) for names in product(self.datasets, self.configurations, self.plans)]

    def runs(self, experiment: ExperimentKey | None = None) -> Iterator[Run]:
        """Every run; all trainers of a fold come before the next fold, so that early results can be compared."""
        experiments = [experiment] if experiment else self.experiments()
        for repeat, key, fold, trainer in product(range(self.repeats), experiments, self.folds, self.trainers):
            yield Run(key, trainer, fold, repeat)

    def options(self) -> dict:
        """The values by name, as benchmark.json holds them."""
        return {name: value if isinstance(value, int) else list(value) for name, value in asdict(self).items()}


def from_options(options: dict, source: str) -> Grid:
    """The grid from the values of a file or of the command line; a single value stands for a list of one.

    >>> from_options({"datasets": 4, "trainers": ["T", "U"], "folds": "0"}, "benchmark.yaml").folds
    (0,)

    Args:
        options: values by the names of `Grid`'s fields.
        source: where they come from, for error messages.

    Raises:
        UserError: if a name is unknown, or a value has the wrong type, is out of range or occurs twice.
    """
    known = [field.name for field in fields(Grid)]
    if unknown := [str(name) for name in options if name not in known]:
        raise UserError(f"{source}: unknown name {', '.join(unknown)}; the known names are {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name == "repeats":
            values[name] = _whole(value, 1, f"{source}: repeats")
            continue
        entries = value if isinstance(value, list | tuple) else [value]
        if not entries or not all(isinstance(e, str | int) and e != "" and not isinstance(e, bool) for e in entries):
            raise UserError(f"{source}: {name} must be a name or a list of names, got {value!r}")
        if name == "folds":
            entries = [_whole(entry, 0, f"{source}: a fold") for entry in entries]
        values[name] = tuple(entries if name == "folds" else map(str, entries))
        if len(set(values[name])) < len(entries):
            raise UserError(f"{source}: {name} has duplicates: {', '.join(map(str, entries))}")
    for name in ("datasets", "trainers"):
        if name not in values:
            raise UserError(f"{source} has no {name}: name at least one")
    return Grid(**values)


def _whole(value: object, minimum: int, name: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise UserError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return value


def read_options(path: Path) -> dict:
    """The options in a YAML or JSON file, by the names of `Grid`'s fields.

    Raises:
        UserError: if it cannot be read or is no mapping.
    """
    import yaml

    try:
        # strings only: as numbers, YAML reads 010 as 8 and 1:30 as 90
        options = yaml.load(path.read_text(encoding="utf-8-sig"), yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as YAML ({reason}): see xattnres benchmark run --help") from None
    if not isinstance(options, dict):
        raise UserError(f"{path} must be a mapping with datasets and trainers, got {type(options).__name__}")
    return options
