"""Pictures are whole PNGs that show what they should, in the trainers' colours."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.io import imread
from support.finished import BASELINE, OTHER, in_memory, row

from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import statistics
from nnunet_xattnres.benchmark.report.analysis import PairedScores, compare_all, find_pairs
from nnunet_xattnres.benchmark.report.figures import (
    boxes,
    by_case,
    chosen_cases,
    colours,
    differences,
    learning_curves,
    mean_curve,
)

THIRD = "nnUNetTrainerEMCAD"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


def share(path, colour: str, sides=slice(None)) -> float:
    """How much of a picture has a colour, or one between it and white."""
    pixels = imread(path)[:, sides, :3] / 255
    white = 1 - pixels
    wanted = 1 - np.array(to_rgb(colour))
    scale = (white @ wanted) / (wanted @ wanted)
    return float(((np.abs(white - scale[..., None] * wanted).max(-1) < 0.02) & (scale > 0.3)).mean())


def is_picture(path) -> bool:
    """A PNG of a sensible size with something on it."""
    pixels = imread(path)
    height, width, _ = pixels.shape
    return (
        path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        and min(height, width) > 200
        and 0.002 < (pixels < 128).mean() < 0.6
    )


def of(a, b, folds: int = 1, **options):
    """One label; Dice of the cases by the baseline and another trainer."""
    trainings = {(trainer, fold): {} for fold in range(folds) for trainer in (BASELINE, OTHER)}
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        for trainer, dice in ((BASELINE, x), (OTHER, y)):
            trainings[trainer, number % folds][f"case {number}"] = {"organ": row(dice)}
    return in_memory(trainings, **options)


def log(epochs: int = 3, **changes) -> Log:
    values = {"train_loss": -0.5, "val_loss": -0.4, "dice": 0.6, "seconds": 9.0} | changes
    return Log({n: {k: v - 0.01 * n for k, v in values.items()} for n in range(epochs)})


def test_colours():
    """Apart, the baseline's always the same; with more trainers than colours they come again."""
    names = [f"trainer{n}" for n in range(40)]
    results = in_memory({}, trainers=(BASELINE, *names))
    found = colours(results)
    assert list(found) == [BASELINE, *names]
    assert found[BASELINE] == colours(in_memory({}, trainers=(BASELINE, OTHER)))[BASELINE]
    assert len(set(list(found.values())[:8])) == 8
    assert found[BASELINE] not in list(found.values())[1:]


class TestLearningCurves:
    def test_both_trainers_in_all_panels(self, tmp_path):
        results = of([0.5] * 4, [0.6] * 4, 2, log=log())
        other = log(train_loss=-0.2, val_loss=-0.2, dice=0.8)
        results.trained = [replace(t, log=other) if t.run.trainer == OTHER else t for t in results.trained]
        path = tmp_path / "p.png"
        assert learning_curves(results, path) is True
        assert is_picture(path)
        width = imread(path).shape[1]
        for colour, panel in itertools.product(colours(results).values(), range(3)):
            assert share(path, colour, slice(panel * width // 3, (panel + 1) * width // 3)) > 5e-4

    def test_no_logs(self, tmp_path):
        assert learning_curves(of([0.5], [0.6]), tmp_path / "p.png") is False
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("changes", [{"train_loss": np.nan}, {"val_loss": np.inf}, {"dice": np.nan}])
    def test_a_training_that_diverged(self, tmp_path, changes):
        assert learning_curves(of([0.5], [0.6], log=log(**changes)), tmp_path / "p.png")
        assert is_picture(tmp_path / "p.png")

    def test_what_one_side_or_one_panel_lacks(self, tmp_path):
        results = of([0.5], [0.6])
        results.of(OTHER)[0].log.epochs.update({0: {"train_loss": 0.0}, 1: {"train_loss": -0.5}})
        assert learning_curves(results, tmp_path / "p.png")
        assert share(tmp_path / "p.png", colours(results)[OTHER]) > 1e-4

    def test_mean_of_the_epochs_that_all_have(self):
        series = [([0, 1, 2], [1.0, 2.0, 3.0]), ([], []), ([2, 1, 5], [5.0, 4.0, 9.0])]
        assert mean_curve(series) == ([1, 2], [3.0, 4.0])


class TestDifferences:
    def test_by_case(self):
        """Mean over repeats."""
        pairs = PairedScores([0.5, 0.5, 0.25], [0.75, 1.0, 0.0], ["x", "y", "x"], [(0, 0), (0, 0), (1, 0)])
        np.testing.assert_array_equal(by_case(pairs), [0.0, 0.5])

    @pytest.mark.parametrize(
        ("b", "up", "tie", "down"),
        [([0.6] * 8, 1, 0, 0), ([0.4] * 8, 0, 0, 1), ([0.5] * 8, 0, 0, 0), ([0.6, 0.4] * 4, 0.5, 0, 0.5)],
    )
    def test_wins_and_losses_are_told_apart(self, tmp_path, b, up, tie, down):
        (paired,) = compare_all([of([0.5] * 8, b)])
        differences(paired, tmp_path / "p.png")
        assert is_picture(tmp_path / "p.png")
        # bars of all cases fill more than a legend's entry
        for colour, part in (("#009e73", up), ("#d55e00", down)):
            assert (share(tmp_path / "p.png", colour) > 0.02) == (part > 0)

    def test_one_case(self, tmp_path):
        """Without an interval."""
        (paired,) = compare_all([of([0.5], [0.75])])
        differences(paired, tmp_path / "p.png")
        assert is_picture(tmp_path / "p.png")

    def test_hundreds_of_cases(self, tmp_path):
        rng = np.random.default_rng(0)
        (paired,) = compare_all([of(rng.random(400), rng.random(400), 5)])
        differences(paired, tmp_path / "p.png")
        assert is_picture(tmp_path / "p.png")


class TestBoxes:
    def test_every_trainer_has_its_own(self, tmp_path):
        rng = np.random.default_rng(0)
        results = of(rng.uniform(0.3, 0.5, 20), rng.uniform(0.6, 0.8, 20))
        boxes(results, tmp_path / "p.png")
        assert is_picture(tmp_path / "p.png")
        pixels = imread(tmp_path / "p.png")
        half = pixels.shape[1] // 2
        ours, theirs = colours(results).values()
        assert share(tmp_path / "p.png", ours, slice(0, half)) > 0.02
        assert share(tmp_path / "p.png", theirs, slice(half, None)) > 0.02

    def test_what_is_not_defined_is_left_out(self, tmp_path):
        """A label that one side never has, one that nobody has, a trainer without trainings."""
        labels = {"organ": row(0.5), "rare": row(None, None), "none": row(None, None)}
        trainings = {(BASELINE, 0): {"x": labels}, (OTHER, 0): {"x": labels | {"rare": row(0.0, None)}}}
        boxes(in_memory(trainings, trainers=(BASELINE, OTHER, THIRD)), tmp_path / "p.png")
        assert is_picture(tmp_path / "p.png")

    def test_many_labels_and_trainers(self, tmp_path):
        labels = {f"a label of a long name {n}": row(0.1 + 0.02 * n) for n in range(40)}
        boxes(in_memory({(f"trainer{n}", 0): {"x": labels, "y": labels} for n in range(4)}), tmp_path / "p.png")
        height, width, _ = imread(tmp_path / "p.png").shape
        assert is_picture(tmp_path / "p.png")
        assert max(height, width) < 2**14  # what browsers show

    def test_nothing_that_all_have(self, tmp_path):
        """As of folds that only one side has: no empty picture."""
        case = {"x": {"organ": row(0.5)}}
        assert boxes(in_memory({(BASELINE, 0): case, (OTHER, 1): case}), tmp_path / "p.png") is False
        assert list(tmp_path.iterdir()) == []


class TestChosenCases:
    def test_lowest_median_and_highest(self):
        b = [0.55, 0.30, 0.90, 0.51, 0.60]
        (paired,) = compare_all([of([0.5] * 5, b, 2)])
        found = chosen_cases(paired)
        assert {name: entry[:2] for name, entry in found.items()} == {
            "lowest": ("case 1", (0, 1)), "median": ("case 0", (0, 0)), "highest": ("case 2", (0, 0))}  # fmt: skip
        assert [entry[2] for entry in found.values()] == pytest.approx([-0.2, 0.05, 0.4])

    def test_of_repeats_the_first(self):
        """With the difference of what is shown."""
        trainings = {(trainer, 0, repeat): {"x": {"organ": row(0.5 + 0.25 * repeat * (trainer == OTHER))}}
                     for trainer in (BASELINE, OTHER) for repeat in (0, 1)}  # fmt: skip
        (paired,) = compare_all([in_memory(trainings)])
        assert find_pairs(paired.results, OTHER, "dice").b == [0.5, 0.75]
        assert set(chosen_cases(paired).values()) == {("x", (0, 0), 0.0)}
