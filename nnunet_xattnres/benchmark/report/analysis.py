"""From scores to what is said of them: means of a trainer, paired comparisons with the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...evaluation.protocols import Scores
from ...evaluation.report import OVERLAP_METRICS, Report
from .results import Results
from .scores import CaseScores
from .statistics import Comparison, compare, holm, in_words, verdict


@dataclass(frozen=True)
class PairedScores:
    """Scores of the same cases by two trainers, in one order; see `compare`."""

    a: list[float]
    b: list[float]
    cases: list[str]
    trainings: list[tuple[int, int]]


@dataclass(frozen=True)
class PairedComparison:
    """A trainer against the baseline in one metric.

    Attributes:
        results: dataset, configuration and plans.
        trainer: compared with `results.baseline`.
        metric: a key of `METRICS`.
        region: its name, or None for the mean over regions of each case.
        comparison: of trainer - baseline.
        adjusted_p, adjusted_both: by Holm, over everything that is compared in this metric and sort.
        pairs: what was compared.
    """

    results: Results
    trainer: str
    metric: str
    region: str | None
    comparison: Comparison
    adjusted_p: float
    adjusted_both: float
    pairs: PairedScores

    @property
    def verdict(self) -> str:
        return verdict(self.comparison, self.adjusted_p, self.adjusted_both)

    def in_words(self) -> str:
        p = self.adjusted_p, self.adjusted_both
        return in_words(self.comparison, *p, self.trainer, self.results.baseline)


def find_pairs(results: Results, trainer: str, metric: str, region: str | None = None) -> PairedScores:
    """Scores of the baseline and a trainer for the cases of the folds that both have finished.

    Where the reference lacks a label, one of the two leaves it empty and the other does not, an overlap counts 1 for
    the first and 0 for the second; where both leave it empty, it is not counted.
    """
    pairs = PairedScores([], [], [], [])
    theirs = {(t.run.repeat, t.run.fold): t.scores for t in results.of(trainer)}
    for ours in results.of(results.baseline):
        key = ours.run.repeat, ours.run.fold
        for case in sorted(ours.scores.keys() & theirs.get(key, {}).keys()):
            pair = _pair(ours.scores[case], theirs[key][case], metric, region)
            if pair:
                pairs.a.append(pair[0])
                pairs.b.append(pair[1])
                pairs.cases.append(case)
                pairs.trainings.append(key)
    return pairs


def _pair(a: dict[str, Scores], b: dict[str, Scores], metric: str, region: str | None) -> tuple[float, float] | None:
    values = []
    for name in [region] if region else sorted(a.keys() & b.keys()):
        x, y = a[name][metric], b[name][metric]
        if metric in OVERLAP_METRICS and (x is None) != (y is None):
            x, y = (1.0 if value is None else value for value in (x, y))
        if x is not None and y is not None:
            values.append((x, y))
    if not values:
        return None
    return sum(x for x, _ in values) / len(values), sum(y for _, y in values) / len(values)


def compare_all(everything: Sequence[Results], metric: str = "dice", by_region: bool = False) -> list[PairedComparison]:
    """Every trainer against the baseline, p-values corrected over all of them together."""
    found = []
    for results in everything:
        for trainer in results.trainers:
            if trainer == results.baseline:
                continue
            for region in regions(results) if by_region else [None]:
                pairs = find_pairs(results, trainer, metric, region)
                if pairs.a:
                    folds = [fold for _, fold in pairs.trainings]
                    comparison = compare(pairs.a, pairs.b, pairs.cases, folds)
                    found.append((results, trainer, region, comparison, pairs))
    adjusted, both = (holm([getattr(comparison, name) for *_, comparison, _ in found]) for name in ("p", "p_both"))
    return [
        PairedComparison(results, trainer, metric, region, comparison, *p, pairs)
        for (results, trainer, region, comparison, pairs), *p in zip(found, adjusted, both, strict=True)
    ]


def regions(results: Results) -> list[str]:
    """Names of the labels or regions that are scored."""
    for trained in results.trained:
        for case in trained.scores.values():
            return list(case)
    return []


def validation_means(results: Results, trainer: str) -> Report:
    """Means of a trainer over the validation cases that all trainers have, of folds that all have finished.

    A case that several folds have validated counts once, with its mean.
    """
    everyone = [_by_case(results, name) for name in results.trainers if results.of(name)]
    shared = set.intersection(*map(set, everyone)) if everyone else set()
    own = _by_case(results, trainer)
    scores = {f"{repeat}.{case}": _mean(own[repeat, case]) for repeat, case in sorted(own.keys() & shared)}
    return Report(scores, {"unit": results.unit})


def _by_case(results: Results, trainer: str) -> dict[tuple[int, str], list[dict[str, Scores]]]:
    """What each fold that all have finished says of a repeat's case."""
    shared, found = results.shared(), {}
    for trained in results.of(trainer):
        if (trained.run.repeat, trained.run.fold) in shared:
            for case, scores in trained.scores.items():
                found.setdefault((trained.run.repeat, case), []).append(scores)
    return found


def _mean(found: list[dict[str, Scores]]) -> dict[str, Scores]:
    mean = {}
    for region, of_one in found[0].items():
        mean[region] = {}
        for metric in of_one:
            values = [scores[region][metric] for scores in found if scores[region][metric] is not None]
            mean[region][metric] = sum(values) / len(values) if values else None
    return mean


def means_of_test(scores: dict[tuple[str, int], CaseScores], trainer: str) -> Report:
    """Means of a trainer over the test cases, all repeats together."""
    together = {
        f"{repeat}.{case}": found
        for (name, repeat), cases in scores.items()
        if name == trainer
        for case, found in cases.items()
    }
    return Report(together, {"unit": ""})
