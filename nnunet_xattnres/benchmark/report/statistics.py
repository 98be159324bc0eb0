"""Statistics of paired scores: bootstrap interval, Wilcoxon's test, effect size, t-test, Holm's correction."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
"""Nominal coverage of all intervals."""

ALPHA = 0.05
"""Significance level of all tests."""

RESAMPLES = 10_000
TIE = 0.001
"""The largest absolute difference that counts as a tie: 0.1 points of Dice."""

_SEED = 0
_DIGITS = 12  # smaller differences are rounding errors, which would break ties and zeros
_MAX_EXACT = 13  # up to this number of non-zero differences, Wilcoxon's test enumerates all signs


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval at `LEVEL`; the bounds are infinite if it cannot be estimated.

    >>> Interval(0.02, 0.01, 0.03).excludes_zero()
    True
    """

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Statistics of the paired differences d = b - a; positive where b is higher.

    Attributes:
        n: number of cases.
        cases: mean of d over cases with its BCa bootstrap interval: the variation between cases, for these networks.
        folds: mean over folds of the mean d of each fold, with Student's t interval, which includes the variation
            between trainings. It is too narrow, because folds share training cases.
        n_folds: number of folds; each is one training (or several repeats) of a and of b.
        median: median of d over cases.
        p: two-sided Wilcoxon signed-rank test over cases, zeros ranked (Pratt 1959).
        p_folds: two-sided one-sample t-test over folds; 1 for a single fold.
        effect: matched-pairs rank-biserial correlation, zeros ranked: -1 (b always lower) to 1 (b always higher).
        wins: number of cases with d > `TIE`.
        ties: number of cases with |d| <= `TIE`.
        losses: number of cases with d < -`TIE`.
    """

    n: int
    cases: Interval
    folds: Interval
    n_folds: int
    median: float
    p: float
    p_folds: float
    effect: float
    wins: int
    ties: int
    losses: int

    @property
    def p_both(self) -> float:
        """max(p, p_folds), which is small only if both tests reject."""
        return max(self.p, self.p_folds)


def compare(a: ArrayLike, b: ArrayLike, cases: Sequence[Hashable], folds: Sequence[Hashable]) -> Comparison:
    """Compare two lists of scores of the same cases.

    Repeated trainings of a fold share its cases, so their differences are averaged for each case first.

    >>> c = compare([0.80, 0.75, 0.90], [0.82, 0.79, 0.91], cases="xyz", folds=[0, 0, 1])
    >>> c.n, c.n_folds, c.wins, round(c.cases.mean, 4), c.p, c.effect
    (3, 2, 3, 0.0233, 0.25, 1.0)

    Args:
        a: scores, one for each case and repeat.
        b: scores of the same cases and repeats, in the same order.
        cases: the case of each score.
        folds: the fold of each score.

    Raises:
        ValueError: if there are no scores, the lengths differ, or a score is not finite.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if not a.size or len({a.shape, b.shape, (len(cases),), (len(folds),)}) > 1:
        raise ValueError(f"expected lists of one length, got {a.shape}, {b.shape}, {len(cases)} and {len(folds)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("all scores must be finite: leave out cases without a score on either side")
    by_case, by_fold = _group_means(b - a, cases), _group_means(b - a, folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences without spread are handled below
        over_cases = _bca_interval(by_case)
        over_folds, p_folds = _t_test(by_fold)
    return Comparison(
        n=len(by_case), cases=over_cases, folds=over_folds, n_folds=len(by_fold),
        median=float(np.median(by_case)), p=_wilcoxon(by_case), p_folds=p_folds, effect=_rank_biserial(by_case),
        wins=int((by_case > TIE).sum()), ties=int((np.abs(by_case) <= TIE).sum()),
        losses=int((by_case < -TIE).sum()),
    )  # fmt: skip


def _group_means(values: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Mean of each group, in the order of their first occurrence."""
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    labels = [index[group] for group in groups]
    return np.round(np.bincount(labels, values) / np.bincount(labels), _DIGITS)


def _bca_interval(d: np.ndarray) -> Interval:
    mean = float(d.mean())
    if len(d) < 2:
        return Interval(mean, -np.inf, np.inf)
    if np.ptp(d) == 0:
        return Interval(mean, mean, mean)
    result = stats.bootstrap(
        (d,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", vectorized=True,
        random_state=np.random.default_rng(_SEED),
    )  # fmt: skip
    low, high = map(float, result.confidence_interval)
    if not np.isfinite((low, high)).all():  # BCa is undefined if the spread is a rounding error
        low, high = np.quantile(result.bootstrap_distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(mean, low, high)


def _t_test(d: np.ndarray) -> tuple[Interval, float]:
    """Student's interval of the mean, and the two-sided p-value of mean 0."""
    mean = float(d.mean())
    if len(d) < 2:
        return Interval(mean, -np.inf, np.inf), 1.0
    if np.ptp(d) == 0:
        return Interval(mean, mean, mean), 0.0 if mean else 1.0
    test = stats.ttest_1samp(d, 0)
    low, high = map(float, test.confidence_interval(LEVEL))
    return Interval(mean, low, high), float(test.pvalue)


def _wilcoxon(d: np.ndarray) -> float:
    if not d.any():
        return 1.0
    if np.count_nonzero(d) > _MAX_EXACT:
        return float(stats.wilcoxon(d, zero_method="pratt").pvalue)
    # The sum of few signed ranks among many zeros is far from normal. SciPy's PermutationMethod gives nearly the same
    # p-value and takes hundreds of times longer.
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signs = np.array(list(product((-1, 1), repeat=len(ranks))))
    observed = abs((ranks * np.sign(d[d != 0])).sum())
    return float((np.abs(signs @ ranks) >= observed - 1e-9).mean())


def _rank_biserial(d: np.ndarray) -> float:
    """(sum of positive ranks - sum of negative ranks) / sum of all ranks (Kerby 2014)."""
    ranks = stats.rankdata(np.abs(d))
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction, which controls the family-wise error rate.

        p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.asarray(p_values, float)[order] * factors))
    return adjusted.tolist()
