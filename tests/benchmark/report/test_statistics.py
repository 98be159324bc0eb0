"""Intervals, tests and effect sizes agree with other implementations and with published examples."""

import itertools
from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy import stats
from support.results import comparison_of, mirrored

from nnunet_xattnres.benchmark.report import statistics
from nnunet_xattnres.benchmark.report.statistics import Interval, compare, holm

MAIZE = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]  # Darwin (1876)
DEPRESSION = (  # Hollander and Wolfe (1973)
    [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29],
)
PLACEBO = [24, 39, 29, 28, 25, 32, 31, 33, 31, 22]  # King, Rosopa and Minium (2011)
DRUG = [28, 29, 34, 21, 28, 15, 17, 28, 16, 12]


def test_repeats_are_averaged_first():
    """Case x of fold 0: 0.2 and 0.4; case y of fold 1: -0.1."""
    result = compare([0.5, 0.5, 0.3], [0.7, 0.9, 0.2], ["x", "x", "y"], [0, 0, 1])
    assert (result.n, result.n_folds) == (2, 2)
    assert (result.cases.mean, result.median, result.folds.mean) == pytest.approx((0.1, 0.1, 0.1))
    assert (result.wins, result.ties, result.losses) == (1, 0, 1)
    assert result.effect == pytest.approx((2 - 1) / 3)


def test_order_and_direction(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 10_000)  # fewer differ by more than a twentieth of the interval
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40))
    cases, folds = [f"case {i // 2}" for i in range(40)], [("fold", i % 5) for i in range(40)]
    order = rng.permutation(40)
    result = compare(a, b, cases, folds)
    shuffled = compare(a[order], b[order], [cases[i] for i in order], [folds[i] for i in order])
    resampling_error = (result.cases.high - result.cases.low) / 20
    for other in (shuffled, mirrored(compare(b, a, cases, folds))):
        assert astuple(other.cases) == pytest.approx(astuple(result.cases), abs=resampling_error)
        assert astuple(other.folds) == pytest.approx(astuple(result.folds))
        rest, expected = (astuple(replace(c, cases=0, folds=0)) for c in (other, result))
        assert rest == pytest.approx(expected)


def test_wins_ties_and_losses():
    """A difference of exactly `TIE` is a tie."""
    result = comparison_of([0.001, -0.001, 0.0005, 0, 0.0011, 0.3, -0.0011])
    assert (result.wins, result.ties, result.losses) == (2, 4, 1)
    assert result.median == 0.0005


def bca(d: np.ndarray) -> tuple[float, float]:
    """The BCa interval by Efron's formulas."""
    rng = np.random.default_rng(1)
    means = rng.choice(d, (30_000, len(d))).mean(axis=1)
    bias = stats.norm.ppf((means < d.mean()).mean())
    without = np.array([np.delete(d, i).mean() for i in range(len(d))])
    acceleration = ((without.mean() - without) ** 3).sum() / (6 * ((without.mean() - without) ** 2).sum() ** 1.5)
    shifted = bias + stats.norm.ppf([0.025, 0.975])
    return tuple(np.quantile(means, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))))


def student(d: np.ndarray) -> tuple[float, float]:
    """Student's interval by its formula."""
    margin = stats.t.ppf(0.975, len(d) - 1) * np.std(d, ddof=1) / np.sqrt(len(d))
    return float(np.mean(d) - margin), float(np.mean(d) + margin)


@pytest.mark.parametrize(
    ("reference", "distribution", "n"), [(bca, "exponential", 15), (bca, "normal", 30), (student, "normal", 500)]
)
def test_interval_over_cases(monkeypatch, reference, distribution, n):
    """The tolerance of a sixth of a standard error is the noise of 10000 resamples; percentiles alone differ by 0.4."""
    monkeypatch.setattr(statistics, "RESAMPLES", 10_000)
    d = 0.02 * getattr(np.random.default_rng(3), distribution)(size=n)
    result = comparison_of(d).cases
    assert result.mean == pytest.approx(d.mean())
    assert (result.low, result.high) == pytest.approx(reference(d), abs=stats.sem(d) / 6)
    assert comparison_of(d).cases == result


def test_interval_and_test_over_folds():
    """Folds with different numbers of cases have the same weight."""
    rng = np.random.default_rng(4)
    d, folds = rng.normal(0.01, 0.02, 20), [0] * 9 + [1] * 6 + [2] * 5
    result = compare([0] * 20, d, range(20), folds)
    means = [d[:9].mean(), d[9:15].mean(), d[15:].mean()]
    assert (result.folds.low, result.folds.high) == pytest.approx(student(means))
    assert result.folds.mean == pytest.approx(np.mean(means)) != pytest.approx(d.mean())
    t = np.mean(means) / (np.std(means, ddof=1) / np.sqrt(3))
    assert result.p_folds == pytest.approx(2 * stats.t.sf(abs(t), 2))


def test_one_case():
    result = comparison_of([0.1])
    assert result.cases == result.folds == Interval(0.1, -np.inf, np.inf)
    assert (result.n, result.p, result.p_folds) == (1, 1, 1)


@pytest.mark.parametrize("by", [0, 0.05, -0.05])
def test_a_constant_difference(by):
    result = comparison_of([by] * 10, folds=2)
    for interval in (result.cases, result.folds):
        assert astuple(interval) == pytest.approx((by, by, by))
    assert (result.effect, result.p) == (np.sign(by), pytest.approx(2 / 2**10 if by else 1))
    assert result.p_folds == (0 if by else 1)


@pytest.mark.parametrize("d", [[0.9 - 0.8, 0.8 - 0.7, 0.7 - 0.6], [0.1] * 9 + [0.1 + 1.4e-17], [1e4, 1e4 + 2e-12] * 5])
def test_a_constant_difference_with_rounding_errors(d):
    """BCa and the t-test divide by a spread of nearly zero; no warning reaches the user."""
    result = comparison_of(d, folds=len(d))
    assert astuple(result.cases) == pytest.approx((d[0],) * 3, abs=1e-11)
    assert result.folds.mean == pytest.approx(d[0])


@pytest.mark.parametrize(
    ("a", "b", "cases", "folds"),
    [
        ([], [], [], []), ([1, 1], [1], "xy", "xy"), ([1, 1], [1, 1], "x", "xy"), ([1, 1], [1, 1], "xy", "x"),
        ([1, 1], [1], "xy", "x"), ([[1]], [[1]], "x", "x"),
    ],
)  # fmt: skip
def test_different_lengths(a, b, cases, folds):
    with pytest.raises(ValueError, match="length"):
        compare(a, b, cases, folds)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_scores_that_are_not_finite(value, sides):
    scores = np.ones((2, 2))
    scores[list(sides), 0] = value
    with pytest.raises(ValueError, match="finite"):
        compare(*scores, "xy", "xy")


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([0] * 15, MAIZE, 0.0413),  # Cureton (1967)
        (*DEPRESSION, 0.0391),  # Hollander and Wolfe (1973), p. 40
        ([0] * 13, [-1, 2, 3, 4, 6, 7, 8, 9, 11, 14, 15, 17, -18], 2 * 109 / 2**13),  # Pratt (1959)
    ],
)
def test_published_p_values(a, b, p):
    assert compare(a, b, range(len(a)), [0] * len(a)).p == pytest.approx(p, abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 10])
@pytest.mark.parametrize("zeros", [0, 10])
def test_p_value_of_few_differences_enumerates_all_signs(n, zeros):
    """A normal approximation would be wrong, above all with many zeros."""
    rng = np.random.default_rng(n)
    d = np.r_[rng.normal(0.5, 1, n), np.zeros(zeros)]
    ranks = stats.rankdata(np.abs(d))[:n]
    observed = abs((np.sign(d[:n]) * ranks).sum())
    at_least = [abs(np.dot(signs, ranks)) >= observed for signs in itertools.product((-1, 1), repeat=n)]
    assert comparison_of(d).p == pytest.approx(np.mean(at_least))


def test_zeros_keep_their_ranks():
    """Pratt's example: with a zero the p-value lies between those of the signs it might have; dropping it raises p."""
    rest = [2, 3, 4, 6, 7, 8, 9, 11, 14, 15, 17, -18]
    with_win, with_zero, with_loss, dropped = (comparison_of(d).p for d in ([1, *rest], [0, *rest], [-1, *rest], rest))
    assert with_win < with_zero < with_loss < dropped


@pytest.mark.parametrize("zeros", [0, 20, 60])
def test_p_value_of_many_cases_with_zeros_and_ties(zeros):
    """Under the null hypothesis the signs of the ranks are independent: their sum has variance sum r^2."""
    rng = np.random.default_rng(zeros)
    d = np.r_[[0] * zeros, rng.integers(-3, 6, 80)]
    ranks = np.where(d == 0, 0, stats.rankdata(np.abs(d)))
    z = (np.sign(d) * ranks).sum() / np.sqrt((ranks**2).sum())
    assert comparison_of(d).p == pytest.approx(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize(
    ("a", "b", "favourable", "unfavourable"),
    [
        (PLACEBO, DRUG, 1 + 2 + 3.5, 10 + 9 + 8 + 6.5 + 6.5 + 5 + 3.5),
        (*DEPRESSION, 2 + 3, 40),  # 7 / 9 by the R package effectsize
        ([0] * 15, MAIZE, 96, 24),
    ],
)
def test_published_effect_sizes(a, b, favourable, unfavourable):
    result = compare(a, b, range(len(a)), [0] * len(a))
    assert result.effect == pytest.approx((favourable - unfavourable) / (favourable + unfavourable))


@pytest.mark.parametrize(
    ("d", "effect"), [([0.1, 0.2, 0.3], 1), ([-0.1, -0.2, -0.3], -1), ([0, 0], 0), ([0, 0.2, 0.3], 5 / 6)]
)
def test_range_of_the_effect(d, effect):
    """The effect reaches 1 and -1 only without zeros."""
    assert comparison_of(d).effect == pytest.approx(effect)


@pytest.mark.slow  # importing statsmodels takes seconds
def test_holm_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    for p in ([0.03], [0.01, 0.04, 0.03], [0.05, 0.05, 0, 1], [0.025, 0.01, 0.01, 0.3, 0.9, 0.002]):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_closure_of_bonferroni(seed):
    """An adjusted p-value is the largest Bonferroni p-value of any set of hypotheses that contains its own."""
    rng = np.random.default_rng(seed)
    p = rng.choice([0, 1, 0.01, 0.05, *rng.random(3)], size=rng.integers(1, 7)).tolist()
    sets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n)]
    closure = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
    assert holm(p) == pytest.approx(closure)
