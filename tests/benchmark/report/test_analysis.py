"""Only what both sides have is compared, empty labels count as said, and p-values are corrected all together."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from support.finished import BASELINE, OTHER, in_memory, row

from nnunet_xattnres.benchmark.grid import ExperimentKey
from nnunet_xattnres.benchmark.report import statistics
from nnunet_xattnres.benchmark.report.analysis import compare_all, find_pairs, means_of_test, regions, validation_means
from nnunet_xattnres.benchmark.report.statistics import in_words, verdict
from nnunet_xattnres.evaluation import METRICS

THIRD = "nnUNetTrainerEMCAD"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


def one(**dice):
    """Cases with a single label."""
    return {case: {"organ": row(value)} for case, value in dice.items()}


def two(a, b):
    return {"organ": a, "tumour": b}


class TestPairs:
    def test_cases_that_both_have(self):
        results = in_memory({
            (BASELINE, 0): one(x=0.5, y=0.25, only_here=0.75),
            (OTHER, 0): one(y=0.5, only_there=0.125, x=1.0),
        })  # fmt: skip
        pairs = find_pairs(results, OTHER, "dice")
        assert (pairs.cases, pairs.a, pairs.b) == (["x", "y"], [0.5, 0.25], [1.0, 0.5])
        assert pairs.trainings == [(0, 0), (0, 0)]

    def test_folds_and_repeats_that_both_have(self):
        scores = {fold: one(**{f"x{fold}": 0.5}) for fold in range(4)}
        results = in_memory({
            (BASELINE, 0): scores[0], (BASELINE, 1): scores[1], (BASELINE, 2): scores[2], (BASELINE, 1, 1): scores[1],
            (OTHER, 2): scores[2], (OTHER, 3): scores[3], (OTHER, 1): scores[1], (OTHER, 1, 1): scores[1],
        })  # fmt: skip
        pairs = find_pairs(results, OTHER, "dice")
        assert list(zip(pairs.cases, pairs.trainings, strict=True)) == [("x1", (0, 1)), ("x2", (0, 2)), ("x1", (1, 1))]

    def test_the_same_case_of_another_fold_is_none(self):
        results = in_memory({(BASELINE, 0): one(x=0.5), (OTHER, 1): one(x=0.5)})
        assert find_pairs(results, OTHER, "dice").a == []

    def test_mean_over_labels(self):
        ours, theirs = two(row(0.5), row(0.25)), two(row(0.75), row(1.0))
        results = in_memory({(BASELINE, 0): {"x": ours}, (OTHER, 0): {"x": theirs}})
        assert find_pairs(results, OTHER, "dice").a == [0.375]
        assert find_pairs(results, OTHER, "dice").b == [0.875]
        assert find_pairs(results, OTHER, "dice", "tumour").b == [1.0]

    @pytest.mark.parametrize(("metric", "here"), [("dice", 0.5), ("iou", 0.5 / 1.5), ("surface_dice", 0.5)])
    def test_a_label_that_the_reference_lacks(self, metric, here):
        """Left empty by one it is right there, 1, and wrong with the other, 0; left empty by both it says nothing."""
        nothing, wrong, right = row(None, None), row(0.0, None), row(0.5)
        results = in_memory({
            (BASELINE, 0): {"x": two(right, wrong), "y": two(right, nothing), "z": two(right, nothing)},
            (OTHER, 0): {"x": two(right, nothing), "y": two(right, wrong), "z": two(right, nothing)},
        })  # fmt: skip
        pairs = find_pairs(results, OTHER, metric, "tumour")
        assert (pairs.cases, pairs.a, pairs.b) == (["x", "y"], [0, 1], [1, 0])
        pairs = find_pairs(results, OTHER, metric)
        assert pairs.a == pytest.approx([here / 2, (here + 1) / 2, here])
        assert pairs.b == pytest.approx([(here + 1) / 2, here / 2, here])

    def test_distances_that_both_have(self):
        """An empty label has none, and no number stands for it."""
        results = in_memory({
            (BASELINE, 0): {"x": two(row(0.5, 4.0), row(0.0, None)), "y": two(row(0.0, None), row(0.5, 2.0))},
            (OTHER, 0): {"x": two(row(0.5, 1.0), row(0.5, 8.0)), "y": two(row(0.5, 1.0), row(0.0, None))},
        })  # fmt: skip
        pairs = find_pairs(results, OTHER, "hd95")
        assert (pairs.cases, pairs.a, pairs.b) == (["x"], [4.0], [1.0])
        assert find_pairs(results, OTHER, "hd95", "tumour").cases == []

    def test_a_trainer_without_trainings(self):
        results = in_memory({(BASELINE, 0): one(x=0.5)}, trainers=(BASELINE, OTHER))
        assert find_pairs(results, OTHER, "dice").cases == []


def noisy(seed, effect=0.0):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.4, 0.8, 9)
    b = a + effect + rng.normal(0, 0.02, 9)
    return [one(**{f"{fold}{i}": v[3 * fold + i] for i in range(3)}) for v in (a, b) for fold in range(3)], b - a


def everything():
    """Two settings with two and three trainers: three differences to the baseline, of all sizes."""
    found, differences = [], []
    for number, trainers in enumerate([[OTHER], [OTHER, THIRD]]):
        trainings = {}
        for trainer in trainers:
            seed = len(differences)
            scores, d = noisy(seed if number == 0 else 100, effect=(0.03, -0.01, 0.0)[seed])
            differences.append(d)
            for fold in range(3):
                trainings[BASELINE, fold] = scores[fold]
                trainings[trainer, fold] = scores[3 + fold]
        found.append(in_memory(trainings, ExperimentKey(f"Dataset00{number}_X", "2d", "nnUNetPlans")))
    return found, differences


class TestCompareAll:
    def test_corrected_over_settings_and_trainers(self):
        found, differences = everything()
        compared = compare_all(found)
        assert [(p.results.experiment.dataset, p.trainer) for p in compared] == [
            ("Dataset000_X", OTHER), ("Dataset001_X", OTHER), ("Dataset001_X", THIRD)]  # fmt: skip
        alone = [stats.wilcoxon(d).pvalue for d in differences]
        assert [p.comparison.p for p in compared] == pytest.approx(alone)
        assert [p.adjusted_p for p in compared] == pytest.approx(multipletests(alone, method="holm")[1])
        assert [p.comparison.cases.mean for p in compared] == pytest.approx([d.mean() for d in differences])
        assert [p.comparison.n_folds for p in compared] == [3, 3, 3]
        by_fold = [stats.ttest_1samp(d.reshape(3, 3).mean(1), 0).pvalue for d in differences]
        both = np.maximum(alone, by_fold)
        assert [p.adjusted_both for p in compared] == pytest.approx(multipletests(both, method="holm")[1])

    def test_corrected_over_labels(self):
        """Of one metric, apart from the others and from the mean over labels."""
        rng = np.random.default_rng(0)
        values = rng.uniform(0.3, 0.9, (2, 8, 2))
        sides = [{f"{i}": two(row(a, 9 - a), row(b, 9 - b)) for i, (a, b) in enumerate(side)} for side in values]
        results = in_memory({(BASELINE, 0): sides[0], (OTHER, 0): sides[1]})
        for metric, sign in (("dice", 1), ("hd95", -1)):
            compared = compare_all([results], metric, by_region=True)
            assert [(p.metric, p.region) for p in compared] == [(metric, "organ"), (metric, "tumour")]
            alone = [stats.wilcoxon(d).pvalue for d in (values[1] - values[0]).T]
            assert [p.adjusted_p for p in compared] == pytest.approx(multipletests(alone, method="holm")[1])
            assert [p.comparison.cases.mean for p in compared] == pytest.approx(sign * (values[1] - values[0]).mean(0))
        assert [p.region for p in compare_all([results])] == [None]

    def test_what_cannot_be_compared_is_in_no_family(self):
        """Neither a trainer without trainings nor a label that nobody has."""
        nothing = {f"{i}": two(row(0.1 * i), row(None, None)) for i in range(7)}
        more = {f"{i}": two(row(0.1 * i + 0.01 + 0.001 * i), row(None, None)) for i in range(7)}
        results = in_memory({(BASELINE, 0): nothing, (OTHER, 0): more}, trainers=(BASELINE, OTHER, THIRD))
        (compared,) = compare_all([results], by_region=True)
        assert (compared.trainer, compared.region) == (OTHER, "organ")
        assert (compared.adjusted_p, compared.adjusted_both) == (compared.comparison.p, compared.comparison.p_both)

    def test_verdicts_are_those_of_the_statistics(self):
        for paired in compare_all(everything()[0]):
            said = paired.comparison, paired.adjusted_p, paired.adjusted_both
            assert paired.verdict == verdict(*said)
            assert paired.in_words() == in_words(*said, paired.trainer, BASELINE)

    def test_repeats_are_of_one_fold(self):
        """They share their cases."""
        trainings = {(trainer, fold, repeat): one(**{f"x{fold}": 0.1 * fold + 0.2 * repeat * (trainer == OTHER)})
                     for trainer in (BASELINE, OTHER) for fold in range(2) for repeat in range(3)}  # fmt: skip
        (compared,) = compare_all([in_memory(trainings)])
        assert (compared.comparison.n, compared.comparison.n_folds) == (2, 2)
        assert compared.comparison.folds.mean == pytest.approx(0.2)

    def test_nothing(self):
        only = in_memory({(BASELINE, 0): one(x=1.0)}, trainers=(BASELINE, OTHER))
        assert compare_all([]) == compare_all([only]) == []


class TestMeans:
    def test_those_of_numpy(self):
        """Mean over cases of each label, and of the labels' means."""
        rng = np.random.default_rng(1)
        values = rng.uniform(0, 1, (3, 4, 2))
        trainings = {
            (trainer, fold): {
                f"{fold}{i}": two(row(a, 10 * a), row(b, 10 * b)) for i, (a, b) in enumerate(values[fold])
            }
            for trainer, fold in itertools.product((BASELINE, OTHER), range(3))
        }
        report = validation_means(in_memory(trainings), OTHER)
        assert len(report.scores) == 12
        for number, region in enumerate(("organ", "tumour")):
            assert report.mean(region)["dice"] == pytest.approx(values[..., number].mean())
            assert report.mean(region)["hd95"] == pytest.approx(10 * values[..., number].mean())
        assert report.overall()["dice"] == pytest.approx(values.mean())
        assert report.overall()["iou"] == pytest.approx((values / (2 - values)).mean())

    def test_only_folds_that_all_have(self):
        """Of the trainers that have any."""
        trainings = {
            (BASELINE, 0): one(x=0.1), (BASELINE, 1): one(y=0.3), (OTHER, 1): one(y=0.5), (OTHER, 2): one(z=0.9),
        }  # fmt: skip
        results = in_memory(trainings, trainers=(BASELINE, OTHER, THIRD))
        assert validation_means(results, BASELINE).overall()["dice"] == 0.3
        assert validation_means(results, OTHER).overall()["dice"] == 0.5
        assert validation_means(results, THIRD).scores == {}

    def test_only_cases_that_all_have(self):
        """A mean without its hardest case is no better one."""
        results = in_memory({(BASELINE, 0): one(x=0.5, y=0.75), (OTHER, 0): one(y=0.8, z=0.9)})
        assert validation_means(results, BASELINE).overall()["dice"] == 0.75
        assert validation_means(results, OTHER).overall()["dice"] == 0.8

    def test_each_case_once(self):
        """Also one that two folds have validated, with its mean."""
        trainings = {(trainer, fold): one(x=0.25 * fold, **{f"y{fold}": 1.0}) for trainer in (BASELINE, OTHER)
                     for fold in range(2)}  # fmt: skip
        report = validation_means(in_memory(trainings), OTHER)
        assert report.mean("organ")["dice"] == pytest.approx((0.125 + 1 + 1) / 3)

    def test_of_repeats(self):
        trainings = {(trainer, 0, repeat): one(x=0.5 * repeat) for trainer in (BASELINE, OTHER) for repeat in (0, 1)}
        assert validation_means(in_memory(trainings), OTHER).overall()["dice"] == 0.25

    def test_of_test_cases(self):
        scores = {(OTHER, 0): one(x=0.5, y=0.25), (BASELINE, 0): one(x=0.125), (OTHER, 1): one(x=1.0, y=0.25)}
        assert means_of_test(scores, OTHER).overall()["dice"] == 0.5
        assert means_of_test(scores, BASELINE).overall()["dice"] == 0.125
        assert means_of_test(scores, THIRD).overall() == {m: None for m in METRICS} | {f"{m}_n": 0 for m in METRICS}


def test_regions():
    assert regions(in_memory({(BASELINE, 0): {}, (OTHER, 0): {"x": two(row(1.0), row(None))}})) == ["organ", "tumour"]
    assert regions(in_memory({}, trainers=(BASELINE, OTHER))) == []
