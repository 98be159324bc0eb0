"""Intervals and tests are those of other implementations, and claims are seldom made where there is no difference."""

import itertools
import random
import re
from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_xattnres.benchmark.report import statistics
from nnunet_xattnres.benchmark.report.statistics import Comparison, Interval, compare, holm, in_words, verdict

MAIZE = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
DEPRESSION = (
    [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29],
)
PLACEBO = [24, 39, 29, 28, 25, 32, 31, 33, 31, 22]
DRUG = [28, 29, 34, 21, 28, 15, 17, 28, 16, 12]


def of(differences, folds: int = 1) -> Comparison:
    n = len(differences)
    return compare([0] * n, differences, range(n), [i * folds // n for i in range(n)])


def test_repeats_are_averaged_first():
    """Case x of fold 0: 0.2 and 0.4; case y of fold 1: -0.1."""
    result = compare([0.5, 0.5, 0.3], [0.7, 0.9, 0.2], ["x", "x", "y"], [0, 0, 1])
    assert (result.n, result.n_folds) == (2, 2)
    assert (result.cases.mean, result.median) == (pytest.approx(0.1), pytest.approx(0.1))
    assert result.folds.mean == pytest.approx((0.3 - 0.1) / 2)
    assert (result.wins, result.ties, result.losses) == (1, 0, 1)
    assert result.effect == pytest.approx((2 - 1) / 3)


def mirrored(c: Comparison) -> Comparison:
    cases, folds = (Interval(-i.mean, -i.high, -i.low) for i in (c.cases, c.folds))
    p = c.p, c.p_folds
    return Comparison(c.n, cases, folds, c.n_folds, -c.median, *p, -c.effect, c.losses, c.ties, c.wins)


def test_order_and_direction():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40))
    cases, folds = [f"case {i // 2}" for i in range(40)], [("fold", i % 5) for i in range(40)]
    order = rng.permutation(40)
    result = compare(a, b, cases, folds)
    shuffled = compare(a[order], b[order], [cases[i] for i in order], [folds[i] for i in order])
    resampling = (result.cases.high - result.cases.low) / 20
    for other in (shuffled, mirrored(compare(b, a, cases, folds))):
        rest, expected = (astuple(replace(c, cases=0, folds=0)) for c in (other, result))
        assert rest == pytest.approx(expected)
        assert astuple(other.folds) == pytest.approx(astuple(result.folds))
        assert astuple(other.cases) == pytest.approx(astuple(result.cases), abs=resampling)


def test_wins_ties_and_losses():
    """At the bound is a tie still."""
    result = of([0.001, -0.001, 0.0005, 0, 0.0011, 0.3, -0.0011])
    assert (result.wins, result.ties, result.losses) == (2, 4, 1)
    assert result.median == 0.0005


def bca(d: np.ndarray) -> tuple[float, float]:
    """Efron's formulas, one resample after the other."""
    rng = np.random.default_rng(1)
    means = np.array([rng.choice(d, len(d)).mean() for _ in range(30_000)])
    bias = stats.norm.ppf((means < d.mean()).mean())
    without = np.array([np.delete(d, i).mean() for i in range(len(d))])
    acceleration = ((without.mean() - without) ** 3).sum() / (6 * ((without.mean() - without) ** 2).sum() ** 1.5)
    shifted = bias + stats.norm.ppf([0.025, 0.975])
    return tuple(np.quantile(means, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))))


def scipys_bca(d: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(2)
    return tuple(stats.bootstrap((d,), np.mean, n_resamples=30_000, random_state=rng).confidence_interval)


def students(d: np.ndarray) -> tuple[float, float]:
    return tuple(stats.ttest_1samp(d, 0).confidence_interval())


@pytest.mark.parametrize(
    ("reference", "distribution", "n"),
    [(bca, "exponential", 15), (scipys_bca, "exponential", 15), (bca, "normal", 30), (students, "normal", 2000)],
)
def test_interval_over_cases(reference, distribution, n):
    """To within a sixth of a standard error, what 10000 resamples leave open; percentiles alone would be 0.4 off."""
    d = 0.02 * getattr(np.random.default_rng(3), distribution)(size=n)
    result = of(d).cases
    assert result.mean == pytest.approx(d.mean())
    assert (result.low, result.high) == pytest.approx(reference(d), abs=stats.sem(d) / 6)
    assert of(d).cases == result


def test_interval_over_folds():
    """Folds of unequal numbers of cases count alike."""
    rng = np.random.default_rng(4)
    d, folds = rng.normal(0.01, 0.02, 20), [0] * 9 + [1] * 6 + [2] * 5
    result = compare([0] * 20, d, range(20), folds)
    means = [d[:9].mean(), d[9:15].mean(), d[15:].mean()]
    assert (result.folds.low, result.folds.high) == pytest.approx(students(means))
    assert result.folds.mean == pytest.approx(np.mean(means)) != pytest.approx(d.mean())
    assert result.p_folds == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_one_case():
    result = of([0.1])
    assert result.cases == result.folds == Interval(0.1, -np.inf, np.inf)
    assert (result.n, result.p, result.p_folds) == (1, 1, 1)


@pytest.mark.parametrize("by", [0, 0.05, -0.05])
def test_a_constant_difference(by):
    result = of([by] * 10, folds=2)
    for interval in (result.cases, result.folds):
        assert (interval.low, interval.mean, interval.high) == pytest.approx((by, by, by))
    assert (result.effect, result.p) == (np.sign(by), pytest.approx(2 / 2**10 if by else 1))


@pytest.mark.parametrize("d", [[0.9 - 0.8, 0.8 - 0.7, 0.7 - 0.6], [0.1] * 9 + [0.1 + 1.4e-17]])
def test_a_constant_difference_but_for_rounding(d):
    """Where BCa may divide by nothing."""
    interval = of(d).cases
    assert (interval.low, interval.mean, interval.high) == pytest.approx((d[0],) * 3, abs=1e-15)


@pytest.mark.parametrize(
    ("a", "b", "cases", "folds"),
    [([], [], [], []), ([1, 1], [1], "xy", "xy"), ([1, 1], [1, 1], "x", "xy"), ([1, 1], [1, 1], "xy", "x")],
)
def test_lengths_that_differ(a, b, cases, folds):
    with pytest.raises(ValueError, match="one length"):
        compare(a, b, cases, folds)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite(value):
    for scores in ([[value, 1], [0, 0]], [[0, 0], [1, value]], [[value] * 2] * 2):
        with pytest.raises(ValueError, match="finite"):
            compare(*scores, "xy", "xy")


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([0] * 15, MAIZE, 0.0413),  # Darwin's, in Cureton (1967)
        (*DEPRESSION, 0.0391),  # Hollander and Wolfe (1973), p. 40
        ([0] * 13, [-1, 2, 3, 4, 6, 7, 8, 9, 11, 14, 15, 17, -18], 2 * 109 / 2**13),  # Pratt (1959)
    ],
)
def test_published_p_values(a, b, p):
    assert compare(a, b, range(len(a)), [0] * len(a)).p == pytest.approx(p, abs=5e-5)


@pytest.mark.parametrize("n", [*range(1, 11), 12])
def test_every_assignment_of_signs(n):
    rng = np.random.default_rng(n)
    d = rng.normal(0.5, 1, n)
    ranks = stats.rankdata(np.abs(d))
    observed = abs((np.sign(d) * ranks).sum())
    at_least = [abs(np.dot(signs, ranks)) >= observed for signs in itertools.product((-1, 1), repeat=n)]
    assert of(d).p == pytest.approx(np.mean(at_least))


def test_zeros_keep_their_ranks():
    """Pratt's example: with a zero the p-value lies between those of the signs it might have, without it above both."""
    rest = [2, 3, 4, 6, 7, 8, 9, 11, 14, 15, 17, -18]
    assert of([1, *rest]).p < of([0, *rest]).p < of([-1, *rest]).p < of(rest).p


@pytest.mark.parametrize("zeros", [0, 20, 60])
def test_many_cases_with_zeros_and_ties(zeros):
    """Under the null hypothesis each rank has a sign by itself: the sum has variance sum r^2."""
    rng = np.random.default_rng(zeros)
    d = np.r_[[0] * zeros, rng.integers(-3, 6, 80)]
    ranks = np.where(d == 0, 0, stats.rankdata(np.abs(d)))
    z = (np.sign(d) * ranks).sum() / np.sqrt((ranks**2).sum())
    assert of(d).p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert of(d).p == pytest.approx(stats.wilcoxon(d, zero_method="pratt").pvalue)


@pytest.mark.parametrize(
    ("a", "b", "favourable", "unfavourable"),
    [
        (PLACEBO, DRUG, 1 + 2 + 3.5, 10 + 9 + 8 + 6.5 + 6.5 + 5 + 3.5),  # King, Rosopa and Minium (2011)
        (*DEPRESSION, 2 + 3, 40),  # 7 / 9 by the R package effectsize
        ([0] * 15, MAIZE, 96, 24),
    ],
)
def test_the_simple_difference_formula(a, b, favourable, unfavourable):
    result = compare(a, b, range(len(a)), [0] * len(a))
    assert result.effect == pytest.approx((favourable - unfavourable) / (favourable + unfavourable))


def test_the_ends_of_the_effect():
    """1 and -1 where b is always higher or lower, not where it is equal at times."""
    assert (of([0.1, 0.2, 0.3]).effect, of([-0.1, -0.2, -0.3]).effect, of([0, 0]).effect) == (1, -1, 0)
    assert 0 < of([0, 0.2, 0.3]).effect < 1


def test_holm():
    rng = random.Random(0)
    for _ in range(30):
        values = [0, 1, 0.01, 0.025, 0.05, rng.random(), rng.random(), rng.random() / 100]
        p = [rng.choice(values) for _ in range(rng.randint(1, 9))]
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def comparison(
    n: int = 30,
    cases: tuple[float, float, float] = (0.0213, 0.0104, 0.0342),
    folds: tuple[float, float, float] = (0.0221, 0.0052, 0.0383),
    n_folds: int = 5,
    effect: float = 0.5,
) -> Comparison:
    return Comparison(n, Interval(*cases), Interval(*folds), n_folds, 0.02, 0.01, 0.02, effect, 20, 5, 5)


ONE = {"folds": (0.0221, -np.inf, np.inf), "n_folds": 1}
AGAINST = {"folds": (-0.0221, -0.0383, -0.0052)}
VERDICTS = [
    ({}, (0.0499, 0.0499), "better"),
    ({"n": 6}, (0.0499, 0.0499), "better"),
    ({}, (0.01, 0.05), "better here"),
    ({"folds": (0.0221, -0.0052, 0.0495)}, (0.01, 0.01), "better here"),
    (AGAINST, (0.01, 0.01), "better here"),
    (ONE, (0.01, 1), "better here"),
    ({}, (0.05, 0.05), "no difference shown"),
    ({}, (1, 1), "no difference shown"),
    (ONE, (0.06, 1), "no difference shown"),
    ({"cases": (0.0213, -0.0104, 0.0542)}, (0.001, 0.001), "no difference shown"),
    ({"cases": (0.0213, 0, 0.0542)}, (0.001, 0.001), "no difference shown"),
    ({"cases": (0.001, 0.0005, 0.0015)}, (0.001, 0.001), "no difference shown"),
    ({"effect": -0.4}, (0.001, 0.001), "no difference shown"),
    ({"n": 5}, (0, 0), "too few cases"),
    ({"n": 1, "cases": (0.0213, -np.inf, np.inf), **ONE}, (1, 1), "too few cases"),
]


@pytest.mark.parametrize(("changes", "p", "expected"), VERDICTS)
def test_verdict(changes, p, expected):
    c = comparison(**changes)
    assert (verdict(c, *p), verdict(mirrored(c), *p)) == (expected, expected.replace("better", "worse"))


def test_the_mean_does_not_claim_what_the_ranks_deny():
    """50 wins by a point and 10 losses by 30: the mean is lower, the ranks are higher."""
    rng = np.random.default_rng(5)
    result = of([*rng.normal(0.01, 0.001, 50), *rng.normal(-0.3, 0.01, 10)])
    assert result.cases.excludes_zero() and result.cases.mean < 0 < result.effect and result.p < 0.05
    assert verdict(result, result.p, result.p_both) == "no difference shown"


def test_few_differences_among_many_zeros():
    """Four wins: 2 of the 16 assignments of their signs are as far out; a normal approximation has 0.046."""
    assert of([0.01, 0.02, 0.03, 0.04, *[0] * 10]).p == pytest.approx(2 / 16)


@pytest.mark.parametrize("n", range(1, 12))
def test_fewest_cases(n):
    """A win in every case shows something from where the test can reach 5 %."""
    result = of(np.linspace(0.01, 0.02, n))
    assert verdict(result, result.p, result.p_both) == ("better here" if 2 / 2**n < 0.05 else "too few cases")


@pytest.mark.parametrize("turn", [lambda c: c, mirrored], ids=["b higher", "b lower"])
@pytest.mark.parametrize(("changes", "p"), [(changes, p) for changes, p, _ in VERDICTS])
def test_in_words(changes, p, turn):
    """One sentence with the claim of the verdict and no other, and in points what it rests on and nothing infinite."""
    c = turn(comparison(**changes))
    word, text = verdict(c, *p), in_words(c, *p, "ours", "theirs")
    assert re.findall(r"better|worse", text) == re.findall(r"better|worse", word)
    assert ("these trained networks" in text) == ("here" in word)
    assert text.index("ours") < text.index("theirs")
    assert re.findall(r"[.!?](?=\s|$)", text) == ["."]
    assert re.search(rf"\b{c.n} cases?\b", text)
    mean, *over_cases = (f"{100 * x:+.2f}" for x in astuple(c.cases))
    over_folds = [f"{100 * x:+.2f}" for x in astuple(c.folds)[1:]]
    expected = [mean]
    if word != "too few cases":
        expected += over_cases
    if word.startswith(("better", "worse")) and c.n_folds > 1:
        expected += over_folds
    assert re.findall(r"[+-]\d+\.\d+|inf|nan", text) == expected


@pytest.mark.parametrize(
    ("changes", "p", "why"),
    [
        ({}, (0.05, 0.05), "which the tests do not confirm"),
        ({"cases": (0.0008, 0.0007, 0.0009)}, (1e-9, 1e-4), "but up to 0.1 points count as a tie"),
        ({"effect": -0.4}, (0.001, 0.001), "but the mean and most cases disagree"),
    ],
)
def test_why_an_interval_without_zero_shows_nothing(changes, p, why):
    """Not that the tests do not confirm what they do."""
    c = comparison(**changes)
    assert c.cases.excludes_zero() and verdict(c, *p) == "no difference shown"
    assert in_words(c, *p, "ours", "theirs").endswith(f"), {why}.")


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of mean zero, but mostly below."""
    return rng.exponential(size=shape) - 1


def claims(times, noise, folds=5, cases=12, trainers=1, repeats=1, luck=0.0, effect=0.0) -> list[list[str]]:
    """Verdicts on trainers, all against the same other: noise of each case, and the luck of each training."""
    rng = np.random.default_rng(0)
    shape = (trainers, repeats, folds, cases)
    case = np.broadcast_to(np.arange(folds * cases).reshape(folds, cases), shape[1:]).ravel().tolist()
    fold = [number // cases for number in case]
    verdicts = []
    for _ in range(times):
        other = np.zeros(len(case)) if trainers == 1 else np.tile(normal(rng, (folds * cases,)), repeats)
        d = effect + noise(rng, (trainers, 1, folds, cases)) + luck * normal(rng, (trainers, repeats, folds, 1))
        results = [compare(other, np.ravel(of_trainer), case, fold) for of_trainer in np.broadcast_to(d, shape)]
        adjusted = [holm([getattr(result, p) for result in results]) for p in ("p", "p_both")]
        verdicts.append([verdict(*parts) for parts in zip(results, *adjusted, strict=True)])
    return verdicts


def seldom(alarms: list[bool]) -> bool:
    """At most every twentieth, as far as their number can tell."""
    return stats.binomtest(sum(alarms), len(alarms), 0.05, alternative="greater").pvalue > 1e-4


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 500)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    "setting",
    [
        {"noise": normal},
        {"noise": skewed},
        {"noise": normal, "folds": 1},
        {"noise": normal, "trainers": 4},
    ],
    ids=["normal", "skewed", "one training", "four trainers"],
)
def test_false_alarms(setting):
    """Without a difference hardly any claim is made, of any of the trainers, not even of these networks."""
    verdicts = claims(300, **setting)
    assert seldom([any(claim.startswith(("better", "worse")) for claim in family) for family in verdicts])


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    "setting",
    [
        {"times": 400, "luck": 1},
        {"times": 200, "luck": 1, "trainers": 4},
        {"times": 300, "luck": 0.6, "repeats": 3},
        {"times": 300, "luck": 0.3, "repeats": 5, "folds": 1},
    ],
    ids=["one trainer", "four trainers", "repeated", "one fold, repeated"],
)
def test_luck_of_the_training(setting):
    """Luck that is nearly as large as the noise of the cases is not taken for the trainer."""
    verdicts = claims(noise=normal, **setting)
    assert seldom([not {"better", "worse"}.isdisjoint(family) for family in verdicts])


@pytest.mark.usefixtures("few_resamples")
def test_luck_is_seen_in_these_networks():
    verdicts = claims(200, normal, luck=1)
    assert not seldom([not {"better here", "worse here"}.isdisjoint(family) for family in verdicts])


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("effect", "expected"), [(1, "better"), (-1, "worse")])
def test_a_real_difference_is_seen(effect, expected):
    verdicts = claims(50, normal, luck=0.2, effect=effect)
    assert verdicts.count([expected]) >= 48
