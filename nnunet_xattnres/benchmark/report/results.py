"""Data of a finished benchmark: trained runs, tables of scores, and what is missing or unfair."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ...evaluation.metrics import METRICS
from ..grid import ExperimentKey, Run
from ..log import Debug, Log
from .scores import CaseScores


@dataclass(frozen=True)
class Finding:
    """Something that is missing, or that makes a comparison unfair.

    Attributes:
        code: a short identifier, such as "to train" or "different batch_size".
        text: one line for the report.
    """

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TrainedRun:
    """A training that is finished and validated.

    Attributes:
        run: the training.
        log: content of nnU-Net's log files.
        debug: content of debug.json.
        attempts: records of `xattnres benchmark run`; empty if nnU-Net was started by hand.
    """

    run: Run
    log: Log
    debug: Debug
    attempts: Sequence[dict]

    @property
    def key(self) -> tuple[int, int]:
        """(repeat, fold)"""
        return self.run.repeat, self.run.fold


COLUMNS = ["trainer", "repeat", "fold", "case", "region", *METRICS]


def score_table(scores: Iterable[tuple[str, int, int | str, CaseScores]]) -> pd.DataFrame:
    """One row for every trainer, repeat, fold, case and region; an undefined score is NaN.

    >>> tumour = {"dice": 0.5, "iou": 1 / 3, "hd95": None, "assd": None, "surface_dice": 0.5}
    >>> table = score_table([("nnUNetTrainer", 0, 2, {"case_1": {"tumour": tumour}})])
    >>> print(table[["fold", "case", "region", "dice", "hd95"]].to_csv(index=False), end="")
    fold,case,region,dice,hd95
    2,case_1,tumour,0.5,
    """
    rows = [
        (trainer, repeat, fold, case, region, *(values[metric] for metric in METRICS))
        for trainer, repeat, fold, cases in scores
        for case, regions in cases.items()
        for region, values in regions.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(METRICS, float))


@dataclass
class Results:
    """Everything about one dataset, configuration and plans.

    Attributes:
        experiment: dataset, configuration and plans.
        trainers: names of the trainer classes that are compared.
        baseline: the trainer that the others are compared with.
        trained: the finished trainings.
        validation: scores of their validation cases, see `score_table`.
        test: scores of the test cases by protocol; their fold is "together".
        unit: unit of distances in the default protocol.
        missing: what is not finished or cannot be read.
        warnings: what makes the comparison unfair or meaningless.
    """

    experiment: ExperimentKey
    trainers: Sequence[str]
    baseline: str
    trained: list[TrainedRun] = field(default_factory=list)
    validation: pd.DataFrame = field(default_factory=lambda: score_table([]))
    test: dict[str, pd.DataFrame] = field(default_factory=dict)
    unit: str = "mm"
    missing: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def trained_by(self, trainer: str) -> list[TrainedRun]:
        """The finished trainings of a trainer."""
        return [t for t in self.trained if t.run.trainer == trainer]

    @property
    def finished_trainers(self) -> list[str]:
        """Trainers with at least one finished training."""
        return [trainer for trainer in self.trainers if self.trained_by(trainer)]

    @property
    def regions(self) -> list[str]:
        """Names of the labels or regions that are scored."""
        return list(self.validation["region"].unique())

    def shared_folds(self) -> set[tuple[int, int]]:
        """(repeat, fold) that all trainers with a finished training have finished."""
        finished = [{t.key for t in self.trained_by(trainer)} for trainer in self.finished_trainers]
        return set.intersection(*finished) if finished else set()
