"""Figures are complete PNG files that show the data in the colours of the trainers."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.io import imread
from support.finished import CASES, LABELS, Finished, prediction, reference
from support.label_maps import write_dataset_json
from support.results import BASELINE, OTHER, THIRD, cases, from_dice, from_differences, in_memory, row

from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import figures
from nnunet_xattnres.benchmark.report.analysis import PairedComparison, compare_all
from nnunet_xattnres.benchmark.report.figures import (
    differences_by_case,
    draw_boxes,
    draw_cases,
    draw_differences,
    draw_learning_curves,
    mean_curve,
    select_cases,
    trainer_colours,
)
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figure.png"


def share(path, colour: str, columns=slice(None)) -> float:
    """The share of pixels with a colour, or one between it and white."""
    pixels = imread(path)[:, columns, :3] / 255
    darkness, expected = 1 - pixels, 1 - np.array(to_rgb(colour))
    scale = (darkness @ expected) / (expected @ expected)
    return float(((np.abs(darkness - scale[..., None] * expected).max(-1) < 0.02) & (scale > 0.3)).mean())


def is_figure(path) -> bool:
    """A PNG of a sensible size that is neither blank nor black."""
    pixels = imread(path)
    is_png = path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return is_png and min(pixels.shape[:2]) > 200 and max(pixels.shape) < 2**14 and 0.002 < (pixels < 128).mean() < 0.6


def compared(differences) -> PairedComparison:
    (paired,) = compare_all([from_differences(differences)])
    return paired


def log(epochs: int = 3, **changes) -> Log:
    values = {"train_loss": -0.5, "val_loss": -0.4, "dice": 0.6, "seconds": 9.0} | changes
    return Log({n: {k: v - 0.01 * n for k, v in values.items()} for n in range(epochs)})


def test_trainer_colours():
    """They differ for the first trainers and are reused for more; the baseline always has the same one."""
    names = [f"trainer{n}" for n in range(40)]
    colours = trainer_colours(in_memory({}, trainers=(BASELINE, *names)))
    assert list(colours) == [BASELINE, *names]
    assert colours[BASELINE] == trainer_colours(in_memory({}, trainers=(BASELINE, OTHER)))[BASELINE]
    assert len(set(list(colours.values())[:8])) == 8
    assert colours[BASELINE] not in list(colours.values())[1:]


class TestLearningCurves:
    def test_both_trainers_in_all_panels(self, path):
        results = from_differences([[0.1, 0.2], [0.1, 0.2]], log=log())
        other = log(train_loss=-0.2, val_loss=-0.2, dice=0.8)
        results.trained = [replace(t, log=other) if t.run.trainer == OTHER else t for t in results.trained]
        assert draw_learning_curves(results, path) is True
        assert is_figure(path)
        width = imread(path).shape[1]
        for colour, panel in itertools.product(trainer_colours(results).values(), range(3)):
            assert share(path, colour, slice(panel * width // 3, (panel + 1) * width // 3)) > 5e-4

    def test_no_logs(self, path):
        assert draw_learning_curves(from_differences([[0.1]]), path) is False
        assert not path.exists()

    def test_undefined_and_missing_values(self, path):
        """A training that diverged, and one without validation."""
        results = from_differences([[0.1]], log=log(train_loss=np.nan, val_loss=np.inf, dice=np.nan))
        other = Log({0: {"train_loss": 0.0}, 1: {"train_loss": -0.5}})
        results.trained = [replace(t, log=other) if t.run.trainer == OTHER else t for t in results.trained]
        assert draw_learning_curves(results, path)
        assert is_figure(path)
        assert share(path, trainer_colours(results)[OTHER]) > 1e-4

    def test_mean_of_the_epochs_that_all_have(self):
        assert mean_curve([([0, 1, 2], [1.0, 2.0, 3.0]), ([2, 1, 5], [5.0, 4.0, 9.0])]) == ([1, 2], [3.0, 4.0])


class TestDifferences:
    def test_mean_over_repeats(self):
        trainings = {(BASELINE, 0, 0): cases(x=0.5, y=0.5), (OTHER, 0, 0): cases(x=0.75, y=1.0),
                     (BASELINE, 0, 1): cases(x=0.25), (OTHER, 0, 1): cases(x=0.0)}  # fmt: skip
        (paired,) = compare_all([in_memory(trainings)])
        np.testing.assert_array_equal(differences_by_case(paired.pairs), [0.0, 0.5])

    @pytest.mark.parametrize(
        ("differences", "wins", "losses"),
        [([0.1] * 8, True, False), ([0] * 8, False, False), ([0.1, -0.1] * 200, True, True)],
    )
    def test_wins_and_losses_have_different_colours(self, path, differences, wins, losses):
        draw_differences(compared([differences]), path)
        assert is_figure(path)
        # bars cover more than the entries of the legend
        assert [share(path, colour) > 0.02 for colour in ("#009e73", "#d55e00")] == [wins, losses]

    def test_one_case(self, path):
        """One case has no confidence interval."""
        draw_differences(compared([[0.25]]), path)
        assert is_figure(path)


class TestBoxes:
    def test_every_trainer_has_a_box(self, path):
        results = from_dice(np.random.default_rng(0).uniform(0.3, 0.8, (2, 1, 20, 1)), labels=("organ",))
        assert draw_boxes(results, path) is True
        assert is_figure(path)
        half = imread(path).shape[1] // 2
        for colour, columns in zip(trainer_colours(results).values(), (slice(half), slice(half, None)), strict=True):
            assert share(path, colour, columns) > 0.02

    def test_undefined_scores_are_left_out(self, path):
        """One side or both sides lack a label, a trainer has no trainings, and names are long."""
        labels = {f"a label with a long name {n}": row(0.1 + 0.02 * n) for n in range(20)}
        labels |= {"organ": row(0.5), "rare": row(None, None), "none": row(None, None)}
        trainings = {(BASELINE, 0): {"x": labels}, (OTHER, 0): {"x": labels | {"rare": row(0.0, None)}}}
        draw_boxes(in_memory(trainings, trainers=(BASELINE, OTHER, THIRD)), path)
        assert is_figure(path)

    @pytest.mark.slow
    def test_many_labels_and_trainers(self, path):
        """Browsers show at most 2^14 pixels."""
        labels = {f"a label with a long name {n}": row(0.1 + 0.02 * n) for n in range(40)}
        draw_boxes(in_memory({(f"trainer{n}", 0): {"x": labels, "y": labels} for n in range(4)}), path)
        assert is_figure(path)

    def test_no_shared_folds(self, path):
        assert draw_boxes(in_memory({(BASELINE, 0): cases(x=0.5), (OTHER, 1): cases(x=0.5)}), path) is False
        assert not path.exists()


class TestSelectCases:
    def test_lowest_median_and_highest(self):
        selected = select_cases(compared([[0.05, 0.4, 0.1], [-0.2, 0.01]]).pairs)
        assert {name: (row["case"], row["fold"]) for name, row in selected.items()} == {
            "lowest": ("10", 1), "median": ("00", 0), "highest": ("01", 0)}  # fmt: skip
        assert [row["difference"] for row in selected.values()] == pytest.approx([-0.2, 0.05, 0.4])

    def test_of_several_repeats_the_first(self):
        trainings = {(trainer, 0, repeat): cases(x=0.5 + 0.25 * repeat * (trainer == OTHER))
                     for trainer in (BASELINE, OTHER) for repeat in (0, 1)}  # fmt: skip
        (paired,) = compare_all([in_memory(trainings)])
        assert [(row["repeat"], row["difference"]) for row in select_cases(paired.pairs).values()] == [(0, 0)] * 3


class TestCases:
    @pytest.fixture(params=["scored", "scored_nifti"])
    def either(self, request) -> Finished:
        return request.getfixturevalue(request.param)

    @pytest.fixture
    def finished(self, scored, tmp_path) -> Finished:
        return scored.copy(tmp_path / "copy")

    def paired(self, finished: Finished) -> PairedComparison:
        (paired,) = compare_all([finished.results()])
        return paired

    def test_arrays(self, either, path, monkeypatch):
        """Cases, differences, images and label maps agree with the files."""
        calls = []
        monkeypatch.setattr(figures, "draw_overlays", lambda *arguments: calls.append(arguments))
        draw_cases(either.folders, self.paired(either), path)
        ((rows, columns, labels, target),) = calls
        assert (columns, labels, target) == (["image", "reference", BASELINE, OTHER], LABELS, path)
        maps = {}
        for number, case in enumerate(CASES):
            runs = [either.run(trainer, either.fold_of(case)) for trainer in (BASELINE, OTHER)]
            maps[case] = [reference(number, either.ending), *(prediction(either, run, number) for run in runs)]
        differences = {case: 100 * (dice(b, truth) - dice(a, truth)) for case, (truth, a, b) in maps.items()}
        ranked = sorted(differences, key=differences.get)
        selected = zip(("lowest", "median", "highest"), (ranked[0], ranked[7], ranked[14]), strict=True)
        for (text, (image, *shown)), (name, case) in zip(rows, selected, strict=True):
            assert text.splitlines() == [name, case, f"{differences[case]:+.2f} points"]
            largest = (maps[case][0] > 0).sum((1, 2)).argmax() if either.ending != ".png" else ...
            for array, expected in zip(shown, maps[case], strict=True):
                np.testing.assert_array_equal(array, expected[largest])
            truth = maps[case][0][largest]
            means = [image[truth == value].mean() for value in (0, 1, 2)]
            assert np.diff(means) == pytest.approx([80, 80], abs=8)  # images are brighter by 80 for each label

    def test_png_and_regions(self, finished, tmp_path):
        """The image is grey, label maps are coloured; regions such as those of BraTS have several values."""
        labels = {"background": 0, "whole": [1, 2], "core": [2]}
        for folder in (finished.preprocessed, *(finished.folders.model(finished.run(t, 0)) for t in (BASELINE, OTHER))):
            write_dataset_json(folder, labels, ".png", regions_class_order=[1, 2])
        (tmp_path / "out").mkdir()
        draw_cases(finished.folders, self.paired(finished), tmp_path / "out" / "p.png")
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["p.png"]
        pixels = imread(tmp_path / "out" / "p.png")[..., :3].astype(int)
        image, *label_maps = (part.mean() for part in np.array_split(np.ptp(pixels, axis=2) > 40, 4, axis=1))
        assert image < 0.02 and min(label_maps) > 0.05

    @pytest.mark.parametrize("remaining", ["nothing", "folder"])
    def test_images_are_missing(self, finished, path, remaining):
        paired = self.paired(finished)
        images = finished.folders.raw_dataset(finished.experiment) / "imagesTr"
        shutil.rmtree(images)
        if remaining == "folder":
            images.mkdir()
        with pytest.raises(UserError, match=str(images)):
            draw_cases(finished.folders, paired, path)
        assert not path.exists()

    @pytest.mark.parametrize("key", ["labels", "file_ending"])
    def test_an_incomplete_dataset_json(self, finished, path, key):
        paired = self.paired(finished)
        file = finished.preprocessed / "dataset.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))
        with pytest.raises(UserError, match=f"{file}.*{key}"):
            draw_cases(finished.folders, paired, path)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over both labels."""
    return float(np.mean([2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum()) for v in (1, 2)]))
