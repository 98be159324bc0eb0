"""Scores, results and comparisons of trainers without any files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid, Run
from nnunet_xattnres.benchmark.log import Debug, Log
from nnunet_xattnres.benchmark.report.analysis import ReportData, analyse
from nnunet_xattnres.benchmark.report.results import Results, TrainedRun, score_table
from nnunet_xattnres.benchmark.report.statistics import Comparison, Interval, compare

BASELINE, OTHER, THIRD = "nnUNetTrainer", "nnUNetTrainerXAttnRes", "nnUNetTrainerEMCAD"
EXPERIMENT = ExperimentKey("Dataset007_Cells", "2d", "nnUNetPlans")


def row(dice: float | None, hd95: float | None = 1.0) -> dict[str, float | None]:
    """Scores of a label."""
    iou = None if dice is None else dice / (2 - dice)
    return {"dice": dice, "iou": iou, "hd95": hd95, "assd": hd95, "surface_dice": dice}


def cases(**dice: float) -> dict:
    """Scores of cases with a single label."""
    return {case: {"organ": row(value)} for case, value in dice.items()}


def in_memory(
    trainings: Mapping[tuple, Mapping[str, Mapping[str, Mapping]]],
    experiment: ExperimentKey = EXPERIMENT,
    trainers: Sequence[str] | None = None,
    log: Log | None = None,
    debug: Debug | None = None,
    unit: str = "mm",
) -> Results:
    """Results with the scores of (trainer, fold) or (trainer, fold, repeat) by case and label."""
    trainers = trainers or tuple(dict.fromkeys(trainer for trainer, *_ in trainings))
    runs = [Run(experiment, *arguments) for arguments in trainings]
    trained = [TrainedRun(run, log or Log(), debug or Debug(), []) for run in runs]
    table = score_table((r.trainer, r.repeat, r.fold, s) for r, s in zip(runs, trainings.values(), strict=True))
    return Results(experiment, trainers, trainers[0], trained, table, unit=unit)


def from_dice(values: np.ndarray, labels: Sequence[str] = ("organ", "tumour"), **options) -> Results:
    """Results of two trainers with the Dice (trainer, fold, case, label); HD95 is 10 - 10 Dice; NaN is undefined."""

    def scores(dice: float) -> dict:
        return row(None, None) if np.isnan(dice) else row(float(dice), float(10 - 10 * dice))

    trainings = {
        (trainer, fold): {
            f"{fold}{case}": {name: scores(values[i, fold, case, j]) for j, name in enumerate(labels)}
            for case in range(values.shape[2])
        }
        for i, trainer in enumerate((BASELINE, OTHER))
        for fold in range(values.shape[1])
    }
    return in_memory(trainings, **options)


def from_differences(differences, trainer: str = OTHER, **options) -> Results:
    """Results of a baseline with Dice 0.5 and a trainer with these differences for every fold and case."""
    trainings = {
        (name, fold): cases(**{f"{fold}{n}": 0.5 + sign * d for n, d in enumerate(of_fold)})
        for fold, of_fold in enumerate(differences)
        for name, sign in ((BASELINE, 0), (trainer, 1))
    }
    return in_memory(trainings, **options)


def report_data(*results: Results) -> ReportData:
    """The analysis of results; there are no folders, so that the networks cannot be measured."""
    grid = Grid([r.experiment.dataset for r in results], results[0].trainers)
    return analyse(grid, NnUNetFolders(Path("raw"), Path("preprocessed"), Path("results")), results)


def comparison_of(differences, folds: int = 1) -> Comparison:
    """The comparison of scores with these differences b - a; consecutive cases share a fold."""
    n = len(differences)
    return compare(np.zeros(n), differences, range(n), [i * folds // n for i in range(n)])


def mirrored(c: Comparison) -> Comparison:
    """The comparison of a with b."""
    over_cases, over_folds = (Interval(-i.mean, -i.high, -i.low) for i in (c.cases, c.folds))
    p = c.p, c.p_folds
    return Comparison(c.n, over_cases, over_folds, c.n_folds, -c.median, *p, -c.effect, c.losses, c.ties, c.wins)
