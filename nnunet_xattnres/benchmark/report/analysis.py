"""Compares every trainer with the baseline and averages scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from ...evaluation.metrics import METRICS
from ...evaluation.report import OVERLAP_METRICS, Report
from ...utils.errors import UserError
from ..folders import NnUNetFolders
from ..grid import ExperimentKey, Grid
from .costs import NetworkSize, measure_network
from .results import Results
from .scores import CaseScores
from .statistics import Comparison, compare, holm
from .verdict import Verdict, decide, describe


@dataclass(frozen=True, eq=False)
class PairedComparison:
    """A trainer compared with the baseline in one metric.

    Attributes:
        results: the experiment.
        trainer: name of the trainer that is compared with `results.baseline`.
        metric: a key of `METRICS`.
        region: name of a label or region; None for the mean over all of them.
        comparison: statistics of trainer - baseline.
        adjusted_p: `comparison.p`, corrected (Holm) over all trainers, experiments and regions.
        adjusted_both: `comparison.p_both`, corrected likewise.
        pairs: the scores, see `pair_scores`.
    """

    results: Results
    trainer: str
    metric: str
    region: str | None
    comparison: Comparison
    adjusted_p: float
    adjusted_both: float
    pairs: pd.DataFrame

    @property
    def experiment(self) -> ExperimentKey:
        return self.results.experiment

    @property
    def verdict(self) -> Verdict:
        return decide(self.comparison, self.adjusted_p, self.adjusted_both)

    def describe(self) -> str:
        p = self.adjusted_p, self.adjusted_both
        return describe(self.comparison, *p, self.trainer, self.results.baseline)


@dataclass
class ReportData:
    """All content of a report.

    Attributes:
        grid: all trainings of the benchmark.
        folders: nnU-Net's folders.
        results: the experiments.
        primary: comparisons of the mean Dice over labels, which verdicts are based on.
        secondary: comparisons of single labels in Dice and HD95, for exploration.
        sizes: size of the network by experiment and trainer, or why it is unknown.
    """

    grid: Grid
    folders: NnUNetFolders
    results: Sequence[Results]
    primary: list[PairedComparison] = field(default_factory=list)
    secondary: list[PairedComparison] = field(default_factory=list)
    sizes: dict[tuple[ExperimentKey, str], NetworkSize | str] = field(default_factory=dict)


def analyse(grid: Grid, folders: NnUNetFolders, results: Sequence[Results]) -> ReportData:
    """Compare every trainer with the baseline, and measure the networks."""
    data = ReportData(grid, folders, results, primary=compare_all(results))
    for metric in ("dice", "hd95"):
        data.secondary += compare_all(results, metric, by_region=True)
    for experiment, trainer in [(r.experiment, trainer) for r in results for trainer in r.finished_trainers]:
        try:
            data.sizes[experiment, trainer] = measure_network(experiment, trainer, folders)
        except UserError as error:
            data.sizes[experiment, trainer] = str(error)
    return data


def pair_scores(results: Results, trainer: str, metric: str, region: str | None = None) -> pd.DataFrame:
    """Scores of the baseline (column a) and a trainer (b) for every repeat, fold and case that both have.

    If the reference lacks a label, the overlap of an empty prediction is undefined: it counts as 1 if the other trainer
    predicts the label (and scores 0), and is left out if both predictions are empty.

    Args:
        region: None for the mean over regions.
    """
    table, keys = results.validation, ["repeat", "fold", "case"]
    if region is not None:
        table = table[table["region"] == region]
    a, b = (table[table["trainer"] == name] for name in (results.baseline, trainer))
    pairs = a.merge(b, on=[*keys, "region"], suffixes=("_a", "_b"))
    pairs = pairs.rename(columns={f"{metric}_a": "a", f"{metric}_b": "b"})[[*keys, "a", "b"]]
    if metric in OVERLAP_METRICS:
        one_empty = pairs["a"].isna() != pairs["b"].isna()
        pairs.loc[one_empty, ["a", "b"]] = pairs.loc[one_empty, ["a", "b"]].fillna(1.0)
    return pairs.dropna().groupby(keys, as_index=False).mean()


def compare_all(everything: Sequence[Results], metric: str = "dice", by_region: bool = False) -> list[PairedComparison]:
    """Compare every trainer of every experiment with the baseline; p-values are corrected over all of them."""
    compared = []
    for results in everything:
        for trainer in [name for name in results.trainers if name != results.baseline]:
            for region in results.regions if by_region else [None]:
                pairs = pair_scores(results, trainer, metric, region)
                if len(pairs):
                    comparison = compare(pairs["a"], pairs["b"], list(pairs["case"]), list(pairs["fold"]))
                    compared.append((results, trainer, region, comparison, pairs))
    adjusted_p = holm([comparison.p for *_, comparison, _ in compared])
    adjusted_both = holm([comparison.p_both for *_, comparison, _ in compared])
    return [
        PairedComparison(results, trainer, metric, region, comparison, p, both, pairs)
        for (results, trainer, region, comparison, pairs), p, both in zip(
            compared, adjusted_p, adjusted_both, strict=True
        )
    ]


def shared_scores(results: Results) -> pd.DataFrame:
    """Validation scores of the folds and cases that all trainers have, so that their means are comparable.

    A case that several folds validate has the mean of its scores.
    """
    table, shared = results.validation, results.shared_folds()
    table = table[[key in shared for key in zip(table["repeat"], table["fold"], strict=True)]]
    table = table.groupby(["trainer", "repeat", "case", "region"], sort=False, as_index=False)[list(METRICS)].mean()
    trainers = table.groupby(["repeat", "case"])["trainer"].transform("nunique")
    return table[trainers == len(results.finished_trainers)]


def means(table: pd.DataFrame, trainer: str) -> Report:
    """Means of a trainer over the cases and repeats in a table of scores."""
    scores: CaseScores = {}
    for row in table[table["trainer"] == trainer].to_dict("records"):
        case = scores.setdefault(f"{row['repeat']}.{row['case']}", {})
        case[row["region"]] = {metric: None if math.isnan(row[metric]) else row[metric] for metric in METRICS}
    return Report(scores, {})
