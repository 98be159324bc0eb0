"""Verdicts claim no more than the statistics show, and are seldom wrong in simulations."""

import itertools
import re
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats
from support.results import comparison_of, mirrored

from nnunet_xattnres.benchmark.report.statistics import Comparison, Interval, compare, holm
from nnunet_xattnres.benchmark.report.verdict import MIN_CASES, Verdict, decide, describe

BETTER, WORSE, BETTER_HERE, WORSE_HERE, NO_DIFFERENCE, TOO_FEW_CASES = Verdict
MIRROR = {BETTER: WORSE, BETTER_HERE: WORSE_HERE}


def comparison(
    n: int = 30,
    cases: tuple[float, float, float] = (0.0213, 0.0104, 0.0342),
    folds: tuple[float, float, float] = (0.0221, 0.0052, 0.0383),
    n_folds: int = 5,
    effect: float = 0.5,
) -> Comparison:
    return Comparison(n, Interval(*cases), Interval(*folds), n_folds, 0.02, 0.01, 0.02, effect, 20, 5, 5)


ONE_FOLD = {"folds": (0.0221, -np.inf, np.inf), "n_folds": 1}
CASES = [
    ({}, (0.0499, 0.0499), BETTER),
    ({"n": 6}, (0.0499, 0.0499), BETTER),
    ({}, (0.01, 0.05), BETTER_HERE),
    ({"folds": (0.0221, -0.0052, 0.0495)}, (0.01, 0.01), BETTER_HERE),
    ({"folds": (-0.0221, -0.0383, -0.0052)}, (0.01, 0.01), BETTER_HERE),
    (ONE_FOLD, (0.01, 1), BETTER_HERE),
    ({}, (0.05, 0.05), NO_DIFFERENCE),
    ({}, (1, 1), NO_DIFFERENCE),
    (ONE_FOLD, (0.06, 1), NO_DIFFERENCE),
    ({"cases": (0.0213, -0.0104, 0.0542)}, (0.001, 0.001), NO_DIFFERENCE),
    ({"cases": (0.0213, 0, 0.0542)}, (0.001, 0.001), NO_DIFFERENCE),
    ({"cases": (0.001, 0.0005, 0.0015)}, (0.001, 0.001), NO_DIFFERENCE),
    ({"effect": -0.4}, (0.001, 0.001), NO_DIFFERENCE),
    ({"n": 5}, (0, 0), TOO_FEW_CASES),
    ({"n": 1, "cases": (0.0213, -np.inf, np.inf), **ONE_FOLD}, (1, 1), TOO_FEW_CASES),
]


@pytest.mark.parametrize(("changes", "p", "expected"), CASES)
def test_decide(changes, p, expected):
    c = comparison(**changes)
    assert (decide(c, *p), decide(mirrored(c), *p)) == (expected, MIRROR.get(expected, expected))


@pytest.mark.parametrize("turn", [lambda c: c, mirrored], ids=["b higher", "b lower"])
@pytest.mark.parametrize(("changes", "p"), [(changes, p) for changes, p, _ in CASES])
def test_describe(changes, p, turn):
    """The text has the claim of the verdict and no other, and the finite figures, in points, that support it."""
    c = turn(comparison(**changes))
    verdict, text = decide(c, *p), describe(c, *p, "TrainerB", "TrainerA")
    assert re.findall(r"better|worse", text) == re.findall(r"better|worse", verdict.value)
    assert ("these trained networks" in text) == (verdict in (BETTER_HERE, WORSE_HERE))
    assert text.index("TrainerB") < text.index("TrainerA")
    assert text.endswith(".") and "\n" not in text
    assert re.search(rf"\b{c.n} cases?\b", text) and ("1 cases" not in text)
    mean, *over_cases = (f"{100 * x:+.2f}" for x in astuple(c.cases))
    expected = [mean]
    if verdict is not TOO_FEW_CASES:
        expected += over_cases
    if re.match("better|worse", verdict.value) and c.n_folds > 1:
        expected += [f"{100 * x:+.2f}" for x in astuple(c.folds)[1:]]
    points = text.split("(effect")[0]
    assert re.findall(r"[+-]\d+\.\d+|inf|nan", points) == expected


@pytest.mark.parametrize(
    ("changes", "p", "fact"),
    [
        ({}, (0.051, 0.051), "p = 0.051"),
        ({"cases": (0.0008, 0.0007, 0.0009)}, (1e-9, 1e-4), "0.1 points"),
        ({"effect": -0.4}, (0.001, 0.001), "-0.40"),
    ],
)
def test_why_an_interval_that_excludes_zero_shows_no_difference(changes, p, fact):
    c = comparison(**changes)
    assert c.cases.excludes_zero() and decide(c, *p) is NO_DIFFERENCE
    assert fact in describe(c, *p, "TrainerB", "TrainerA")


def test_mean_and_ranks_of_opposite_sign_show_no_difference():
    """50 wins by a point and 10 losses by 30: the mean is lower, the ranks are higher."""
    rng = np.random.default_rng(5)
    result = comparison_of([*rng.normal(0.01, 0.001, 50), *rng.normal(-0.3, 0.01, 10)])
    assert result.cases.excludes_zero() and result.cases.mean < 0 < result.effect and result.p < 0.05
    assert decide(result, result.p, result.p_both) is NO_DIFFERENCE


@pytest.mark.parametrize("n", range(1, 9))
def test_min_cases(n):
    """A win in every case is shown from the number of cases on with which the test can reach 0.05."""
    result = comparison_of(np.linspace(0.01, 0.02, n))
    assert decide(result, result.p, result.p_both) is (BETTER_HERE if 2 / 2**n < 0.05 else TOO_FEW_CASES)
    assert (n >= MIN_CASES) == (2 / 2**n < 0.05)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Skewed noise: the mean is zero, but most values are negative."""
    return rng.exponential(size=shape) - 1


def simulate(times, noise=normal, folds=5, cases=12, trainers=1, repeats=1, training_sd=0.0, effect=0.0):
    """Verdicts on trainers that are all compared with one baseline; one set of verdicts for each simulation.

    Differences are effect + noise of each case + normal noise of each training with SD `training_sd`.
    """
    rng = np.random.default_rng(0)
    shape = (trainers, repeats, folds, cases)
    case = np.broadcast_to(np.arange(folds * cases).reshape(folds, cases), shape[1:]).ravel().tolist()
    fold = [number // cases for number in case]
    for _ in range(times):
        baseline = np.zeros(len(case)) if trainers == 1 else np.tile(normal(rng, (folds * cases,)), repeats)
        d = effect + noise(rng, (trainers, 1, folds, cases))
        d = d + training_sd * normal(rng, (trainers, repeats, folds, 1))
        results = [compare(baseline, np.ravel(scores), case, fold) for scores in np.broadcast_to(d, shape)]
        adjusted = [holm([getattr(result, p) for result in results]) for p in ("p", "p_both")]
        yield {decide(*parts) for parts in zip(results, *adjusted, strict=True)}


def p_of_more_than_5_percent(verdicts, claims: set[Verdict]) -> float:
    """p-value of the hypothesis that at most 5 % of the simulations make one of the claims."""
    alarms = [not claims.isdisjoint(found) for found in verdicts]
    return stats.binomtest(sum(alarms), len(alarms), 0.05, alternative="greater").pvalue


def with_soak(settings: dict[str, dict], default: str, times: int):
    """Every setting in full as a soak test, and one with few simulations by default."""
    full = [pytest.param(times, s, id=name, marks=pytest.mark.soak) for name, s in settings.items()]
    return [pytest.param(40, settings[default], id=f"{default}, few"), *full]


ANY_CLAIM = {BETTER, WORSE, BETTER_HERE, WORSE_HERE}
WITHOUT_DIFFERENCE = {
    "normal": {},
    "skewed": {"noise": skewed},
    "one training": {"folds": 1},
    "four trainers": {"trainers": 4},
}
WITH_TRAINING_NOISE = {
    "one trainer": {"training_sd": 1},
    "four trainers": {"training_sd": 1, "trainers": 4},
    "repeated": {"training_sd": 0.6, "repeats": 3},
    "one fold, repeated": {"training_sd": 0.3, "repeats": 5, "folds": 1},
}


@pytest.mark.parametrize(("times", "setting"), with_soak(WITHOUT_DIFFERENCE, "four trainers", 300))
def test_false_alarms(times, setting):
    """Without a difference, at most 5 % of the families of trainers have any claim, even for these networks only."""
    assert p_of_more_than_5_percent(simulate(times, **setting), ANY_CLAIM) > 1e-4


@pytest.mark.parametrize(("times", "setting"), with_soak(WITH_TRAINING_NOISE, "repeated", 400))
def test_variation_between_trainings_is_no_difference_between_trainers(times, setting):
    """The noise of trainings is nearly as large as the noise of the cases."""
    assert p_of_more_than_5_percent(simulate(times, **setting), {BETTER, WORSE}) > 1e-4


@pytest.mark.parametrize("times", [40, pytest.param(200, marks=pytest.mark.soak)])
def test_variation_between_trainings_is_a_difference_between_networks(times):
    assert p_of_more_than_5_percent(simulate(times, training_sd=1), {BETTER_HERE, WORSE_HERE}) < 1e-4


@pytest.mark.parametrize("times", [20, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("effect", "expected"), [(1, BETTER), (-1, WORSE)])
def test_power(effect, expected, times):
    verdicts = list(itertools.chain.from_iterable(simulate(times, training_sd=0.2, effect=effect)))
    assert verdicts.count(expected) >= 0.95 * times
