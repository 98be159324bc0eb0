"""Paired comparison of two trainers on the same cases: interval, test, effect, and a verdict that claims no more."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Of every interval: nominal, for few cases or very skewed differences the bootstrap's are too narrow."""

ALPHA = 0.05
"""Of every test."""

RESAMPLES = 10_000
TIE = 0.001
"""Differences up to here, 0.1 points of Dice, are ties."""

FEWEST_CASES = 6
"""Below, not even a win in every case reaches a p-value of 5 %."""

_SEED = 0
_DIGITS = 12  # below is rounding, which would break ties and zeros
_FEW_FOR_EXACT = 13  # differences whose signs can all be tried


@dataclass(frozen=True)
class Interval:
    """A mean and what it may be, at `LEVEL`; infinite where nothing is known."""

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """What paired differences d = b - a say; positive where b is higher.

    Attributes:
        n: cases.
        cases: mean of d, with its BCa bootstrap interval over cases: these trained networks, other cases.
        folds: mean over folds of the mean d of each, with Student's interval: other trainings, too. Optimistic, as
            folds share training cases.
        n_folds: folds, each a training of its own on both sides (or several, if repeated).
        median: of d.
        p: of the Wilcoxon signed-rank test over cases, two-sided, zeros ranked (Pratt).
        p_folds: of Student's test over folds, two-sided; 1 for a single one.
        effect: matched-pairs rank-biserial correlation, zeros ranked: -1 (b always lower) to 1 (always higher).
        wins, ties, losses: cases with d above `TIE`, within it, and below.
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
        """The larger p-value: small only if cases and folds agree."""
        return max(self.p, self.p_folds)


def compare(a: Sequence[float], b: Sequence[float], cases: Sequence[Hashable], folds: Sequence[Hashable]) -> Comparison:
    """Compare scores of the same cases, in the same order.

    What repeated trainings scored is averaged first, for they share their cases.

    Args:
        a, b: scores, one per case and repeat.
        cases, folds: which ones each belongs to.

    Raises:
        ValueError: if there are no scores, their numbers differ, or one is not finite.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    lengths = {len(a), len(b), len(cases), len(folds)}
    if a.ndim != 1 or b.ndim != 1 or len(lengths) != 1 or not len(a):
        raise ValueError(f"expected lists of one length, got {a.shape}, {b.shape}, {len(cases)} and {len(folds)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores must be finite: leave out cases without one, for both")
    by_case, by_fold = _means(b - a, cases), _means(b - a, folds)
    over_folds, p_folds = _student(by_fold)
    return Comparison(
        n=len(by_case), cases=_bootstrap(by_case), folds=over_folds, n_folds=len(by_fold),
        median=float(np.median(by_case)), p=_p_value(by_case), p_folds=p_folds, effect=_rank_biserial(by_case),
        wins=int((by_case > TIE).sum()), ties=int((np.abs(by_case) <= TIE).sum()),
        losses=int((by_case < -TIE).sum()),
    )  # fmt: skip


def _means(values: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Mean of each group, in the order in which the groups first occur."""
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    places = np.array([index[group] for group in groups])
    return np.round(np.bincount(places, values) / np.bincount(places), _DIGITS)


def _bootstrap(d: np.ndarray) -> Interval:
    mean = float(d.mean())
    if len(d) < 2:
        return Interval(mean, -np.inf, np.inf)
    if np.ptp(d) == 0:
        return Interval(mean, mean, mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about differences without spread, which are looked at below
        result = stats.bootstrap(
            (d,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="BCa", vectorized=True,
            random_state=np.random.default_rng(_SEED),
        )  # fmt: skip
    low, high = map(float, result.confidence_interval)
    if not np.isfinite((low, high)).all():  # BCa has no answer where the spread is rounding
        low, high = np.quantile(result.bootstrap_distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(mean, low, high)


def _student(d: np.ndarray) -> tuple[Interval, float]:
    """Interval of the mean, and the p-value of its being zero."""
    mean = float(d.mean())
    if len(d) < 2:
        return Interval(mean, -np.inf, np.inf), 1.0
    if np.ptp(d) == 0:
        return Interval(mean, mean, mean), 0.0 if mean else 1.0
    error = d.std(ddof=1) / np.sqrt(len(d))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(d) - 1) * error)
    return Interval(mean, mean - reach, mean + reach), float(2 * stats.t.sf(abs(mean) / error, len(d) - 1))


def _p_value(d: np.ndarray) -> float:
    if not d.any():
        return 1.0
    if np.count_nonzero(d) > _FEW_FOR_EXACT:
        return float(stats.wilcoxon(d, zero_method="pratt").pvalue)
    # few differences among many zeros are far from normal: all signs of them
    ranks = stats.rankdata(np.abs(d))[d != 0]
    signs = np.array(list(product((-1, 1), repeat=len(ranks))))
    observed = abs((ranks * np.sign(d[d != 0])).sum())
    return float((np.abs(signs @ ranks) >= observed - 1e-9).mean())


def _rank_biserial(d: np.ndarray) -> float:
    """(sum of positive ranks - sum of negative ranks) / sum of all."""
    ranks = stats.rankdata(np.abs(d))
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that stay below a level together with at most that chance of any false alarm.

    p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.maximum.accumulate(np.minimum(1, np.asarray(p_values, float)[order] * factors))
    result = np.empty(len(p_values))
    result[order] = adjusted
    return result.tolist()


Verdict = Literal["better", "worse", "better here", "worse here", "no difference shown", "too few cases"]


def verdict(comparison: Comparison, adjusted_p: float, adjusted_both: float) -> Verdict:
    """What may be claimed of b.

    A claim needs the corrected test over cases, an interval over cases without zero, more than a tie on average, and
    mean and ranks on one side. "better" and "worse" also need the folds to show it; where they do not, being one or too
    different, "here" is added: it is true of these networks, and another training may turn it round.

    Args:
        comparison: of b with a.
        adjusted_p: `p`, corrected for everything that is compared.
        adjusted_both: `p_both`, corrected likewise.
    """
    c = comparison
    if c.n < FEWEST_CASES:
        return "too few cases"
    shown = adjusted_p < ALPHA and c.cases.excludes_zero()
    if not shown or abs(c.cases.mean) <= TIE or c.cases.mean * c.effect <= 0:
        return "no difference shown"
    up = c.cases.mean > 0
    if adjusted_both < ALPHA and c.folds.excludes_zero() and (c.folds.mean > 0) == up:
        return "better" if up else "worse"
    return "better here" if up else "worse here"


def in_words(comparison: Comparison, adjusted_p: float, adjusted_both: float, name: str, against: str) -> str:
    """The verdict on Dice in plain words, with what it rests on."""
    c = comparison
    mean, cases = _points(c.cases.mean), f"{c.n} {'case' if c.n == 1 else 'cases'}"
    size = f"{mean} points of Dice on average over {cases}"
    inside = f"{100 * LEVEL:.0f} % interval {_range(c.cases)}"
    word = verdict(c, adjusted_p, adjusted_both)
    if word == "too few cases":
        are = "is" if c.n == 1 else "are"
        return f"{cases} {are} too few to tell {name} from {against} ({mean} points of Dice on average)."
    if word == "no difference shown":
        claim = f"No difference between {name} and {against} could be shown: {size}"
        if c.cases.excludes_zero():
            return f"{claim} ({inside}), {_why_not(c, adjusted_p)}."
        return f"{claim}, and anything in {_range(c.cases)} is compatible with these cases."
    claim = f"{name} is {word.split()[0]} than {against}"
    if not word.endswith("here"):
        return f"{claim}: {size} ({inside}; over the {c.n_folds} folds {_range(c.folds)})."
    if c.n_folds < 2:
        why = "folds are what tells a trainer from the luck of a training, and there is one"
    else:
        why = f"over the {c.n_folds} folds the interval is {_range(c.folds)}"
    return f"{claim} with these trained networks, {size} ({inside}), but other trainings may not show it: {why}."


def _why_not(c: Comparison, adjusted_p: float) -> str:
    if adjusted_p >= ALPHA:
        return "which the tests do not confirm"
    if abs(c.cases.mean) <= TIE:
        return f"but up to {100 * TIE:g} points count as a tie"
    return "but the mean and most cases disagree"


def _points(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0:+.2f}"  # no -0.00


def _range(interval: Interval) -> str:
    return f"{_points(interval.low)} to {_points(interval.high)}"
