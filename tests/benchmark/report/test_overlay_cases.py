"""The lowest, the median and the highest difference, each over its own image and with its own label maps."""

import json
import shutil

import numpy as np
import pytest
from skimage.io import imread
from support.finished import BASELINE, CASES, LABELS, OTHER, Finished, prediction, reference, write_finished
from support.label_maps import write_dataset_json

from nnunet_xattnres.benchmark.report import overlay_cases, statistics
from nnunet_xattnres.benchmark.report.analysis import PairedComparison, compare_all
from nnunet_xattnres.benchmark.report.overlay_cases import draw_cases
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


@pytest.fixture(scope="module", params=[".png", ".nii.gz"])
def either(request, tmp_path_factory) -> Finished:
    finished = write_finished(tmp_path_factory.mktemp("either"), ending=request.param)
    finished.results()
    return finished


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Finished:
    finished = write_finished(tmp_path_factory.mktemp("pictures"))
    finished.results()
    return finished


@pytest.fixture
def finished(pictures, tmp_path) -> Finished:
    return pictures.copy(tmp_path / "copy")


def paired(finished: Finished) -> PairedComparison:
    (found,) = compare_all([finished.results()])
    return found


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over both labels."""
    return float(np.mean([2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum()) for v in (1, 2)]))


def test_what_is_drawn(either, tmp_path, monkeypatch):
    """Case, difference and arrays, from what was written."""
    drawn = []
    monkeypatch.setattr(overlay_cases, "picture", lambda *arguments: drawn.append(arguments))
    draw_cases(paired(either), either.folders, tmp_path / "p.png")
    ((rows, columns, labels, path),) = drawn
    assert columns == ["image", "reference", BASELINE, OTHER]
    assert (labels, path) == (LABELS, tmp_path / "p.png")
    maps = {}
    for number, case in enumerate(CASES):
        runs = [either.run(trainer, either.fold_of(case)) for trainer in (BASELINE, OTHER)]
        maps[case] = [reference(number, either.ending), *(prediction(either, run, number) for run in runs)]
    differences = {
        case: 100 * (dice(theirs, truth) - dice(ours, truth)) for case, (truth, ours, theirs) in maps.items()
    }
    ranked = sorted(differences, key=differences.get)
    for (text, (image, *shown)), name, case in zip(
        rows, ("lowest", "median", "highest"), (ranked[0], ranked[7], ranked[14]), strict=True
    ):
        assert text.splitlines() == [name, case, f"{differences[case]:+.2f} points"]
        best = (maps[case][0] > 0).sum((1, 2)).argmax() if either.ending != ".png" else ...
        for array, expected in zip(shown, maps[case], strict=True):
            np.testing.assert_array_equal(array, expected[best])
        # images are brighter by 80 for each label
        truth = maps[case][0][best]
        means = [image[truth == value].mean() for value in (0, 1, 2)]
        assert np.diff(means) == pytest.approx([80, 80], abs=8)


def test_the_picture(either, tmp_path):
    draw_cases(paired(either), either.folders, tmp_path / "p.png")
    assert [file.name for file in tmp_path.iterdir()] == ["p.png"]
    pixels = imread(tmp_path / "p.png")[..., :3].astype(int)
    coloured = np.ptp(pixels, axis=2) > 40
    columns = [part.mean() for part in np.array_split(coloured, 4, axis=1)]
    assert min(columns[1:]) > 0.05
    assert columns[0] < 0.02  # the image is grey


def test_regions_are_shown_as_well(finished, tmp_path):
    """As of BraTS, where no label is a number alone."""
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    for folder in (finished.prepared, *(finished.folders.model(finished.run(t, 0)) for t in (BASELINE, OTHER))):
        write_dataset_json(folder, labels, ".png", regions_class_order=[1, 2])
    draw_cases(paired(finished), finished.folders, tmp_path / "p.png")
    pixels = imread(tmp_path / "p.png")[..., :3].astype(int)
    assert (np.ptp(pixels, axis=2) > 40).mean() > 0.05


class TestMissing:
    def test_all_images(self, finished, tmp_path):
        images = finished.folders.raw_dataset(finished.experiment) / "imagesTr"
        shutil.rmtree(images)
        with pytest.raises(UserError, match=f"^there is no {images}$"):
            draw_cases(paired(finished), finished.folders, tmp_path / "p.png")
        assert not (tmp_path / "p.png").exists()

    def test_the_image_of_a_case(self, finished, tmp_path):
        found = paired(finished)
        images = finished.folders.raw_dataset(finished.experiment) / "imagesTr"
        for image in images.iterdir():
            image.unlink()
        with pytest.raises(UserError, match=rf"case_\d\d.*{images}|{images}.*case_\d\d"):
            draw_cases(found, finished.folders, tmp_path / "p.png")

    @pytest.mark.parametrize("key", ["labels", "file_ending"])
    def test_an_entry_of_dataset_json(self, finished, tmp_path, key):
        found = paired(finished)
        path = finished.prepared / "dataset.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
        with pytest.raises(UserError, match=str(path)):
            draw_cases(found, finished.folders, tmp_path / "p.png")
