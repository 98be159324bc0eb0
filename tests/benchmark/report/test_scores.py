"""Scores are nnU-Net's, computed once, and once more after anything they rest on has changed."""

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from PIL import Image
from support.finished import BASELINE, LABELS, OTHER, SPACING, Finished, summarise, write_finished
from support.label_maps import damage, write_dataset_json, write_label_map
from support.trees import snapshot

from nnunet_xattnres.benchmark.report import scores as module
from nnunet_xattnres.benchmark.report.scores import TOLERANCE, Predictions, score
from nnunet_xattnres.evaluation import PROTOCOLS, compare
from nnunet_xattnres.evaluation.folders import CaseEvaluator
from nnunet_xattnres.utils.errors import UserError

REGIONS = {"nucleus": (1,), "cell wall": (2,)}


@pytest.fixture(scope="module", params=[".png", ".nii.gz"])
def either(request, tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("either"), ending=request.param)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def finished(pictures, tmp_path) -> Finished:
    return pictures.copy(tmp_path / "copy")


def predictions(finished: Finished, trainer: str = OTHER, fold: int = 0, protocol: str = "default") -> Predictions:
    run = finished.run(trainer, fold)
    folder, references = finished.folders.validation(run), finished.folders.references(finished.experiment)
    cases = tuple(finished.validated[fold])
    return Predictions(folder, references, finished.folders.model(run) / "dataset.json", cases, protocol)


def read(path: Path) -> np.ndarray:
    """Without nnU-Net."""
    if path.suffix == ".png":
        return np.array(Image.open(path))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def without(label: int, finished: Finished, *paths: Path) -> None:
    for path in paths:
        array = read(path)
        write_label_map(path, np.where(array == label, 0, array), None if finished.ending == ".png" else SPACING)


def compare_files(folder: Predictions, case: str, ending: str) -> dict:
    maps = [read(source / f"{case}{ending}").astype(int) for source in (folder.folder, folder.references)]
    spacing = (1, 1) if ending == ".png" else SPACING
    return compare(*maps, REGIONS, spacing, PROTOCOLS[folder.protocol], TOLERANCE)


def test_overlaps_are_those_of_nnunet(either, tmp_path):
    """With labels that one map lacks, or both: nnU-Net has NaN for the latter."""
    finished = either.copy(tmp_path / "copy")
    first, second, third, *_ = finished.validated[0]
    without(2, finished, finished.predicted(OTHER, first))
    without(2, finished, finished.reference(second))
    without(1, finished, finished.predicted(OTHER, third), finished.reference(third))
    run = finished.run(OTHER, 0)
    summarise(finished, run)
    theirs = load_summary_json(str(finished.folders.validation(run) / "summary.json"))["metric_per_case"]
    ((ours, problems),) = score([predictions(finished)], 1)
    assert problems == [] and len(ours) == len(theirs) == 5
    empty = 0
    for entry in theirs:
        case = Path(entry["prediction_file"]).name.removesuffix(finished.ending)
        for region, value in LABELS.items():
            if value:
                for name, metric in (("Dice", "dice"), ("IoU", "iou")):
                    expected, found = entry["metrics"][value][name], ours[case][region][metric]
                    empty += found is None
                    assert found == pytest.approx(expected, rel=1e-12) if found is not None else np.isnan(expected)
    assert empty == 2
    assert [ours[case]["cell wall"]["dice"] for case in (first, second)] == [0, 0]


@pytest.mark.parametrize("protocol", ["default", "published"])
def test_all_scores_are_those_of_the_label_maps(either, tmp_path, protocol):
    """In mm of the volumes' spacing, and in voxels of pictures."""
    finished = either.copy(tmp_path / "copy")
    first, second, *_ = finished.validated[0]
    without(2, finished, finished.predicted(OTHER, first))
    without(1, finished, finished.predicted(OTHER, second), finished.reference(second))
    folder = predictions(finished, protocol=protocol)
    ((found, problems),) = score([folder], 1)
    assert problems == []
    assert list(found) == finished.validated[0]
    assert found == {case: compare_files(folder, case, finished.ending) for case in found}


def test_regions(finished):
    """By hand, of nnU-Net's regions and its label to ignore."""
    folder = replace(predictions(finished), cases=(finished.validated[0][0],))
    labels = {"background": 0, "whole": [1, 2], "wall": [2], "ignore": 3}
    write_dataset_json(folder.dataset_json.parent, labels, ".png")
    case = folder.cases[0]
    reference, prediction = read(finished.reference(case)), read(folder.folder / f"{case}.png")
    reference[:, :14] = 3
    write_label_map(finished.reference(case), reference)
    ((found, _),) = score([folder], 1)
    expected = {}
    for region, values in {"whole": (1, 2), "wall": (2,)}.items():
        a, b = (np.isin(array, values) & (reference != 3) for array in (prediction, reference))
        expected[region] = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert {region: s["dice"] for region, s in found[case].items()} == pytest.approx(expected)
    assert 0 < expected["wall"] < 1


def test_every_folder_has_its_own(finished):
    folders = [predictions(finished, t, f, p) for t, f, p in (
        (OTHER, 1, "default"), (BASELINE, 0, "default"), (BASELINE, 0, "published"))]  # fmt: skip
    together = score(folders, 1)
    for folder, (found, _) in zip(folders, together, strict=True):
        assert found == {case: compare_files(folder, case, ".png") for case in folder.cases}
    assert together == score(folders, 1)
    assert together[::-1] == score(folders[::-1], 1)


def test_worker_processes_can_have_it(finished, monkeypatch):
    """They get everything pickled, and return their cases in any order."""

    def elsewhere(function, items, workers, title):
        assert workers == 3
        for item in reversed(items):
            work, one = pickle.loads(pickle.dumps((function, item)))
            yield item, work(one)

    expected = score([predictions(finished, BASELINE), predictions(finished)], 1)
    for folder in (predictions(finished, BASELINE), predictions(finished)):
        folder.cache().unlink()
    monkeypatch.setattr(module, "map_unordered", elsewhere)
    found = score([predictions(finished, BASELINE), predictions(finished)], 3)
    assert found == expected
    assert [list(scores) for scores, _ in found] == [finished.validated[0]] * 2


class TestKept:
    @pytest.fixture
    def looked_at(self, monkeypatch) -> list[str]:
        """The cases whose files were looked at."""
        cases = []

        def look(evaluation, case, by_name=CaseEvaluator.__call__):
            cases.append(case)
            return by_name(evaluation, case)

        monkeypatch.setattr(CaseEvaluator, "__call__", look)
        return cases

    @pytest.mark.parametrize("protocol", ["default", "published"])
    def test_computed_once(self, finished, looked_at, protocol):
        folder = predictions(finished, protocol=protocol)
        first = score([folder], 1)
        assert looked_at == list(folder.cases)
        assert score([folder], 1) == first
        assert len(looked_at) == len(folder.cases)

    def test_beside_the_folder_which_stays_as_nnunet_left_it(self, finished):
        before, beside = snapshot(finished.fold(OTHER, 0) / "validation"), set(finished.fold(OTHER, 0).iterdir())
        for protocol in ("default", "published"):
            score([predictions(finished, protocol=protocol)], 1)
        assert snapshot(finished.fold(OTHER, 0) / "validation") == before
        added = set(finished.fold(OTHER, 0).iterdir()) - beside
        assert {file.name for file in added} == {f"validation_scores_{p}.json" for p in ("default", "published")}

    def test_protocols_are_kept_apart(self, finished):
        without(2, finished, finished.reference(finished.validated[0][0]))
        scores = [score([predictions(finished, protocol=p)], 1) for p in ("default", "published", "default")]
        assert scores[0] == scores[2] != scores[1]

    @pytest.mark.parametrize("what", ["prediction", "reference"])
    def test_a_label_map_that_changes(self, finished, what):
        folder = predictions(finished)
        case = folder.cases[1]
        score([folder], 1)
        path = finished.predicted(OTHER, case) if what == "prediction" else finished.reference(case)
        write_label_map(path, np.where(read(path) == 1, 2, read(path)))
        ((found, _),) = score([folder], 1)
        assert found == {c: compare_files(folder, c, ".png") for c in folder.cases}

    def test_a_change_of_the_same_size(self, finished):
        """Only the time tells."""
        folder = predictions(finished)
        path = finished.predicted(OTHER, folder.cases[0])
        ((before, _),) = score([folder], 1)
        size, array = path.stat().st_size, read(path)
        other = next(
            moved for moved in (np.roll(array, steps, 0) for steps in (1, -1, 2, -2))
            if write_label_map(path, moved).stat().st_size == size
        )  # fmt: skip
        ((after, _),) = score([folder], 1)
        assert (other != array).any()
        assert after[folder.cases[0]] == compare_files(folder, folder.cases[0], ".png") != before[folder.cases[0]]

    @pytest.mark.parametrize(
        ("labels", "regions"),
        [
            ({"background": 0, "core": 1, "cell wall": 2}, ["core", "cell wall"]),
            ({"background": 0, "nucleus": 2, "cell wall": 1}, ["nucleus", "cell wall"]),
            ({"background": 0, "nucleus": [1, 2], "cell wall": 2}, ["nucleus", "cell wall"]),
            ({"background": 0, "nucleus": 1, "ignore": 2}, ["nucleus"]),
        ],
    )
    def test_labels_that_change(self, finished, labels, regions):
        folder = predictions(finished)
        ((before, _),) = score([folder], 1)
        write_dataset_json(folder.dataset_json.parent, labels, ".png")
        ((after, problems),) = score([folder], 1)
        assert list(after[folder.cases[0]]) == regions
        assert after != before and not problems

    def test_a_reader_that_changes(self, tmp_path, looked_at):
        """Another reader may see another spacing."""
        finished = write_finished(tmp_path, ending=".nii.gz")
        folder = predictions(finished)
        score([folder], 1)
        write_dataset_json(folder.dataset_json.parent, LABELS, ".nii.gz", overwrite_image_reader_writer="NibabelIO")
        score([folder], 1)
        assert looked_at == 2 * list(folder.cases)

    def test_cases_that_change(self, finished):
        folder = predictions(finished)
        fewer = replace(folder, cases=folder.cases[1:])
        ((all_of_them, _),) = score([folder], 1)
        ((some, _),) = score([fewer], 1)
        assert list(some) == list(fewer.cases)
        assert score([folder], 1) == [(all_of_them, [])]

    def test_a_tolerance_that_changes(self, finished, monkeypatch):
        folder = predictions(finished, BASELINE)
        ((before, _),) = score([folder], 1)
        monkeypatch.setattr(module, "TOLERANCE", 100.0)
        ((after, _),) = score([folder], 1)
        assert all(region["surface_dice"] == 1 for case in after.values() for region in case.values())
        assert after != before

    def test_another_version_of_the_package(self, finished, looked_at, monkeypatch):
        """It may compute other scores."""
        folder = predictions(finished)
        score([folder], 1)
        monkeypatch.setattr("nnunet_xattnres.__version__", "99.0")
        monkeypatch.setattr(module, "__version__", "99.0", raising=False)
        score([folder], 1)
        assert looked_at == 2 * list(folder.cases)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"key": 1, "scores": {}}'])
    def test_torn_or_foreign(self, finished, content):
        folder = predictions(finished)
        first = score([folder], 1)
        folder.cache().write_bytes(content)
        assert score([folder], 1) == first
        assert json.loads(folder.cache().read_text())["scores"] == first[0][0]

    def test_a_label_map_that_is_replaced_meanwhile(self, finished, monkeypatch):
        """As by nnU-Net's own --val: what was scored is not what lies there afterwards."""
        folder = predictions(finished)
        path = finished.predicted(OTHER, folder.cases[0])
        other = np.where(read(path) == 1, 2, read(path))

        def look(evaluation, case, by_name=CaseEvaluator.__call__):
            found = by_name(evaluation, case)
            if case == folder.cases[0]:
                write_label_map(path, other)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(CaseEvaluator, "__call__", look)
            score([folder], 1)
        ((found, _),) = score([folder], 1)
        assert found[folder.cases[0]] == compare_files(folder, folder.cases[0], ".png")

    def test_where_nothing_can_be_written(self, finished, monkeypatch):
        """As on results that may only be read."""

        def refuse(*_, **__):
            raise OSError(errno.EROFS, "Read-only file system")

        folder = predictions(finished)
        before = snapshot(finished.folders.results)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", refuse)
            patch.setattr(os, "replace", refuse)
            first = score([folder], 1)
        assert snapshot(finished.folders.results) == before
        assert first == score([folder], 1)


class TestProblems:
    def test_each_has_a_line_and_the_others_their_scores(self, finished):
        folder = predictions(finished)
        torn, gone, foreign, lost, whole = folder.cases
        damage(finished.predicted(OTHER, torn))
        finished.predicted(OTHER, gone).unlink()
        write_label_map(finished.predicted(OTHER, foreign), np.full((24, 28), 7))
        finished.reference(lost).unlink()
        for _ in range(2):  # the second time from what was kept
            ((found, problems),) = score([folder], 1)
            assert found == {whole: compare_files(folder, whole, ".png")}
            assert [problem.split(":")[0] for problem in problems] == [torn, gone, foreign, lost]
            assert " 7" in problems[2]
            assert str(finished.reference(lost)) in problems[3]
            assert not any("\n" in problem for problem in problems)

    def test_mended(self, finished):
        folder = predictions(finished)
        path = finished.predicted(OTHER, folder.cases[0])
        whole = path.read_bytes()
        damage(path)
        score([folder], 1)
        path.write_bytes(whole)
        ((found, problems),) = score([folder], 1)
        assert list(found) == list(folder.cases) and problems == []

    def test_what_passes_is_not_kept(self, finished, monkeypatch):
        """Rights, memory and open files leave the time of a file as it is."""
        folder = predictions(finished)

        def fail(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr("nnunet_xattnres.evaluation.folders.check_nifti", fail)
            ((found, problems),) = score([folder], 1)
            assert found == {} and len(problems) == 5
        ((found, problems),) = score([folder], 1)
        assert list(found) == list(folder.cases) and problems == []

    @pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"labels": {"background": 0}, "file_ending": ".png"}'])
    def test_no_labels(self, finished, content):
        folder = predictions(finished)
        folder.dataset_json.unlink()
        if content is not None:
            folder.dataset_json.write_text(content)
        with pytest.raises(UserError, match=str(folder.dataset_json)):
            score([folder], 1)
