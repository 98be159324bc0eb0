"""What a benchmark compares: trainers on datasets, configurations, plans and folds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

from ..utils.errors import UserError

FOLDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, order=True)
class ExperimentKey:
    """What two trainings must share to be compared: dataset (Dataset004_Hippocampus), configuration and plans."""

    dataset: str
    configuration: str
    plans: str

    def __str__(self) -> str:
        return f"{self.dataset}, {self.configuration}, {self.plans}"


@dataclass(frozen=True, order=True)
class Run:
    """One training: what `nnUNetv2_train` is told.

    Attributes:
        experiment: dataset, configuration and plans.
        trainer: the name of its class.
        fold: 0, 1, ...; not "all", which has no validation cases of its own.
        repeat: 0, 1, ...; nnU-Net takes no seed, so repeats differ by chance.
    """

    experiment: ExperimentKey
    trainer: str
    fold: int
    repeat: int = 0

    def __str__(self) -> str:
        return f"{self.experiment}: {self.short_name}"

    @property
    def short_name(self) -> str:
        """The run where its experiment is known."""
        return f"{self.trainer}, fold {self.fold}{self.repeat_suffix}"

    @property
    def repeat_suffix(self) -> str:
        """ ", repeat 1", or nothing for the first training."""
        return f", repeat {self.repeat}" if self.repeat else ""


@dataclass(frozen=True)
class Grid:
    """All runs of a benchmark; the first trainer is the baseline, with which the others are compared.

    Attributes:
        datasets: full names.
        trainers, configurations, plans: names.
        folds: of every one of them.
        repeats: trainings of each.
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
        """Every run, those of one fold together, so that an unfinished benchmark has pairs."""
        experiments = [experiment] if experiment else self.experiments()
        for repeat, chosen, fold, trainer in product(range(self.repeats), experiments, self.folds, self.trainers):
            yield Run(chosen, trainer, fold, repeat)

    def options(self) -> dict:
        """As a file has them."""
        return {name: value if isinstance(value, int) else list(value) for name, value in asdict(self).items()}


def from_options(options: dict, source: str) -> Grid:
    """The grid of what a file, or the command line, names; single values stand for lists of one.

    Args:
        options: values by the names of `Grid`'s fields.
        source: where they come from, for the message.

    Raises:
        UserError: if a name is unknown, or a value is none of its kind.
    """
    known = [field.name for field in fields(Grid)]
    if unknown := [str(name) for name in options if name not in known]:
        raise UserError(f"{source} has {', '.join(unknown)}, but only {', '.join(known)} are known")
    values = {}
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
            raise UserError(f"{source}: {name} has something twice: {', '.join(map(str, entries))}")
    for name in ("datasets", "trainers"):
        if name not in values:
            raise UserError(f"{source} names no {name}")
    return Grid(**values)


def _whole(value: object, least: int, what: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return value


def read_options(path: Path) -> dict:
    """The options in a YAML (or JSON) file, by the names of `Grid`'s fields.

    Raises:
        UserError: if it cannot be read, or holds something else.
    """
    import yaml

    try:
        # texts alone: YAML's own numbers take 010 for 8 and 1:30 for 90
        options = yaml.load(path.read_text(), yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as YAML ({reason}): see xattnres benchmark run --help") from None
    if not isinstance(options, dict):
        raise UserError(f"{path} must name datasets and trainers, it holds {type(options).__name__}")
    return options
