"""Only scores that both sides have are compared, and p-values are corrected over all comparisons."""

import itertools

import numpy as np
import pytest
from scipy import stats
from support.results import BASELINE, OTHER, THIRD, cases, from_dice, in_memory, report_data, row

from nnunet_xattnres.benchmark.grid import ExperimentKey
from nnunet_xattnres.benchmark.report import analysis
from nnunet_xattnres.benchmark.report.analysis import analyse, compare_all, means, pair_scores, shared_scores
from nnunet_xattnres.benchmark.report.costs import NetworkSize
from nnunet_xattnres.benchmark.report.results import score_table
from nnunet_xattnres.benchmark.report.statistics import holm
from nnunet_xattnres.benchmark.report.verdict import decide, describe
from nnunet_xattnres.evaluation import METRICS
from nnunet_xattnres.utils.errors import UserError


def two(a, b):
    return {"organ": a, "tumour": b}


def values(pairs) -> tuple[list, list, list]:
    return pairs["case"].tolist(), pairs["a"].tolist(), pairs["b"].tolist()


class TestPairScores:
    def test_cases_that_both_have(self):
        results = in_memory({(BASELINE, 0): cases(x=0.5, y=0.25, w=0.75), (OTHER, 0): cases(y=0.5, z=0.125, x=1.0)})
        assert values(pair_scores(results, OTHER, "dice")) == (["x", "y"], [0.5, 0.25], [1.0, 0.5])

    def test_folds_and_repeats_that_both_have(self):
        baseline_scores, other_scores = [(0, 0), (1, 0), (2, 0), (1, 1)], [(2, 0), (3, 0), (1, 0), (1, 1)]
        scores = {fold: cases(**{f"x{fold}": 0.5}) for fold in range(4)}
        results = in_memory({(BASELINE, *key): scores[key[0]] for key in baseline_scores}
                            | {(OTHER, *key): scores[key[0]] for key in other_scores})  # fmt: skip
        pairs = pair_scores(results, OTHER, "dice")
        assert pairs[["repeat", "fold", "case"]].values.tolist() == [[0, 1, "x1"], [0, 2, "x2"], [1, 1, "x1"]]

    @pytest.mark.parametrize("fold", [1, None])
    def test_nothing_in_common(self, fold):
        """The case is in another fold, or there is no training."""
        trainings = {(BASELINE, 0): cases(x=0.5)} | ({} if fold is None else {(OTHER, fold): cases(x=0.5)})
        assert len(pair_scores(in_memory(trainings, trainers=(BASELINE, OTHER)), OTHER, "dice")) == 0

    def test_mean_over_labels(self):
        baseline_scores, other_scores = two(row(0.5), row(0.25)), two(row(0.75), row(1.0))
        results = in_memory({(BASELINE, 0): {"x": baseline_scores}, (OTHER, 0): {"x": other_scores}})
        assert values(pair_scores(results, OTHER, "dice")) == (["x"], [0.375], [0.875])
        assert values(pair_scores(results, OTHER, "dice", "tumour")) == (["x"], [0.25], [1.0])

    @pytest.mark.parametrize(("metric", "organ"), [("dice", 0.5), ("iou", 0.5 / 1.5), ("surface_dice", 0.5)])
    def test_overlap_of_a_label_that_the_reference_lacks(self, metric, organ):
        """An empty prediction counts as 1 if the other one is not empty, and is left out if both are."""
        empty, wrong, right = row(None, None), row(0.0, None), row(0.5)
        results = in_memory({
            (BASELINE, 0): {"x": two(right, wrong), "y": two(right, empty), "z": two(right, empty)},
            (OTHER, 0): {"x": two(right, empty), "y": two(right, wrong), "z": two(right, empty)},
        })  # fmt: skip
        assert values(pair_scores(results, OTHER, metric, "tumour")) == (["x", "y"], [0, 1], [1, 0])
        pairs = pair_scores(results, OTHER, metric)
        assert pairs["a"].tolist() == pytest.approx([organ / 2, (organ + 1) / 2, organ])
        assert pairs["b"].tolist() == pytest.approx([(organ + 1) / 2, organ / 2, organ])

    def test_distances_are_compared_where_both_are_defined(self):
        results = in_memory({
            (BASELINE, 0): {"x": two(row(0.5, 4.0), row(0.0, None)), "y": two(row(0.0, None), row(0.5, 2.0))},
            (OTHER, 0): {"x": two(row(0.5, 1.0), row(0.5, 8.0)), "y": two(row(0.5, 1.0), row(0.0, None))},
        })  # fmt: skip
        assert values(pair_scores(results, OTHER, "hd95")) == (["x"], [4.0], [1.0])
        assert len(pair_scores(results, OTHER, "hd95", "tumour")) == 0


def three_comparisons():
    """Two experiments with one and two trainers: three comparisons with the baseline, and their differences."""
    rng = np.random.default_rng(0)
    found, differences = [], []
    for number, trainers in enumerate([[OTHER], [OTHER, THIRD]]):
        baseline = rng.uniform(0.4, 0.8, 9)
        scores = {BASELINE: baseline}
        for trainer in trainers:
            differences.append((0.03, -0.01, 0.0)[len(differences)] + rng.normal(0, 0.02, 9))
            scores[trainer] = baseline + differences[-1]
        trainings = {
            (trainer, fold): cases(**{f"{fold}{i}": dice[3 * fold + i] for i in range(3)})
            for trainer, dice in scores.items()
            for fold in range(3)
        }
        found.append(in_memory(trainings, ExperimentKey(f"Dataset00{number}_X", "2d", "nnUNetPlans")))
    return found, differences


class TestCompareAll:
    def test_corrected_over_experiments_and_trainers(self):
        found, differences = three_comparisons()
        compared = compare_all(found)
        assert [(p.results.experiment.dataset, p.trainer) for p in compared] == [
            ("Dataset000_X", OTHER), ("Dataset001_X", OTHER), ("Dataset001_X", THIRD)]  # fmt: skip
        p = [stats.wilcoxon(d).pvalue for d in differences]
        by_fold = [stats.ttest_1samp(d.reshape(3, 3).mean(1), 0).pvalue for d in differences]
        assert [c.comparison.p for c in compared] == pytest.approx(p)
        assert [c.adjusted_p for c in compared] == pytest.approx(holm(p))
        assert [c.adjusted_both for c in compared] == pytest.approx(holm(np.maximum(p, by_fold)))
        assert [c.comparison.cases.mean for c in compared] == pytest.approx([d.mean() for d in differences])
        assert [c.comparison.n_folds for c in compared] == [3, 3, 3]
        for c in compared:
            arguments = c.comparison, c.adjusted_p, c.adjusted_both
            assert c.verdict is decide(*arguments)
            assert c.describe() == describe(*arguments, c.trainer, BASELINE)

    def test_corrected_over_labels(self):
        """The labels of one metric are one family; other metrics and the mean over labels are separate."""
        dice = np.random.default_rng(0).uniform(0.3, 0.9, (2, 1, 8, 2))
        results = from_dice(dice)
        for metric, factor in (("dice", 1), ("hd95", -10)):
            compared = compare_all([results], metric, by_region=True)
            assert [(c.metric, c.region) for c in compared] == [(metric, "organ"), (metric, "tumour")]
            p = [stats.wilcoxon(d).pvalue for d in (dice[1] - dice[0])[0].T]
            assert [c.adjusted_p for c in compared] == pytest.approx(holm(p))
            assert [c.comparison.cases.mean for c in compared] == pytest.approx(
                factor * (dice[1] - dice[0]).mean((0, 1))
            )
        assert [c.region for c in compare_all([results])] == [None]

    def test_what_cannot_be_compared_is_not_corrected_for(self):
        """This is so for a trainer without trainings and for a label that no case has."""
        baseline_scores = {f"{i}": two(row(0.1 * i), row(None, None)) for i in range(7)}
        other_scores = {f"{i}": two(row(0.1 * i + 0.01 + 0.001 * i), row(None, None)) for i in range(7)}
        results = in_memory(
            {(BASELINE, 0): baseline_scores, (OTHER, 0): other_scores}, trainers=(BASELINE, OTHER, THIRD)
        )
        (compared,) = compare_all([results], by_region=True)
        assert (compared.trainer, compared.region) == (OTHER, "organ")
        assert (compared.adjusted_p, compared.adjusted_both) == (compared.comparison.p, compared.comparison.p_both)

    def test_repeats_belong_to_one_fold(self):
        trainings = {
            (trainer, fold, repeat): cases(**{f"x{fold}": 0.1 * fold + 0.2 * repeat * (trainer == OTHER)})
            for trainer, fold, repeat in itertools.product((BASELINE, OTHER), range(2), range(3))
        }
        (compared,) = compare_all([in_memory(trainings)])
        assert (compared.comparison.n, compared.comparison.n_folds) == (2, 2)
        assert compared.comparison.folds.mean == pytest.approx(0.2)

    def test_nothing(self):
        only = in_memory({(BASELINE, 0): cases(x=1.0)}, trainers=(BASELINE, OTHER))
        assert compare_all([]) == compare_all([only]) == []


def dice(results, trainer) -> float | None:
    return means(shared_scores(results), trainer).overall()["dice"]


class TestMeans:
    def test_of_numpy(self):
        """Means over cases of each label, and over labels of these means."""
        scores = np.random.default_rng(1).uniform(0, 1, (2, 3, 4, 2))
        report = means(shared_scores(from_dice(scores)), OTHER)
        assert len(report.scores) == 12
        for number, region in enumerate(("organ", "tumour")):
            assert report.mean(region)["dice"] == pytest.approx(scores[1, ..., number].mean())
            assert report.mean(region)["hd95"] == pytest.approx(10 - 10 * scores[1, ..., number].mean())
        assert report.overall()["dice"] == pytest.approx(scores[1].mean())
        assert report.overall()["iou"] == pytest.approx((scores[1] / (2 - scores[1])).mean())

    def test_only_folds_that_all_have(self):
        """These are the trainers with at least one training."""
        trainings = {(BASELINE, 0): cases(x=0.1), (BASELINE, 1): cases(y=0.3), (OTHER, 1): cases(y=0.5),
                     (OTHER, 2): cases(z=0.9)}  # fmt: skip
        results = in_memory(trainings, trainers=(BASELINE, OTHER, THIRD))
        assert [dice(results, trainer) for trainer in results.trainers] == [0.3, 0.5, None]

    def test_only_cases_that_all_have(self):
        results = in_memory({(BASELINE, 0): cases(x=0.5, y=0.75), (OTHER, 0): cases(y=0.8, z=0.9)})
        assert [dice(results, trainer) for trainer in results.trainers] == [0.75, 0.8]

    def test_a_case_that_two_folds_validate_counts_once(self):
        trainings = {(trainer, fold): cases(x=0.25 * fold, **{f"y{fold}": 1.0}) for trainer in (BASELINE, OTHER)
                     for fold in range(2)}  # fmt: skip
        assert dice(in_memory(trainings), OTHER) == pytest.approx((0.125 + 1 + 1) / 3)

    def test_repeats(self):
        trainings = {(trainer, 0, repeat): cases(x=0.5 * repeat) for trainer in (BASELINE, OTHER) for repeat in (0, 1)}
        assert dice(in_memory(trainings), OTHER) == 0.25

    def test_test_cases(self):
        scores = {(OTHER, 0): cases(x=0.5, y=0.25), (BASELINE, 0): cases(x=0.125), (OTHER, 1): cases(x=1.0, y=0.25)}
        table = score_table((trainer, repeat, "together", found) for (trainer, repeat), found in scores.items())
        assert means(table, OTHER).overall()["dice"] == 0.5
        assert means(table, BASELINE).overall()["dice"] == 0.125
        assert means(table, THIRD).overall() == {m: None for m in METRICS} | {f"{m}_n": 0 for m in METRICS}


def test_analyse(monkeypatch):
    """Three trainers, one without trainings: one is compared, and the networks of both others are measured."""

    def measure(experiment, trainer, folders):
        if trainer == OTHER:
            raise UserError("no network")
        return NetworkSize(3, 4)

    monkeypatch.setattr(analysis, "measure_network", measure)
    results = from_dice(np.full((2, 2, 2, 2), 0.5), trainers=(BASELINE, OTHER, THIRD))
    data = report_data(results)
    assert [(p.trainer, p.metric, p.region) for p in data.primary] == [(OTHER, "dice", None)]
    assert [(p.metric, p.region) for p in data.secondary] == list(itertools.product(("dice", "hd95"), results.regions))
    assert data.sizes == {(results.experiment, BASELINE): NetworkSize(3, 4), (results.experiment, OTHER): "no network"}
    assert analyse(data.grid, data.folders, []).primary == []


def test_shared_folds_and_regions():
    """A shared fold is finished by every trainer that has finished any."""
    runs = [(BASELINE, 0), (BASELINE, 1), (BASELINE, 1, 1), (OTHER, 1), (OTHER, 2), (OTHER, 0, 1)]
    results = in_memory({key: {"x": two(row(1.0), row(None))} for key in runs}, trainers=(BASELINE, OTHER, THIRD))
    assert (results.shared_folds(), results.regions) == ({(0, 1)}, ["organ", "tumour"])
    nothing = in_memory({}, trainers=(BASELINE, OTHER))
    assert (nothing.shared_folds(), nothing.regions) == (set(), [])
