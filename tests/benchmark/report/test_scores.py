"""Scores are nnU-Net's; they are computed once, and again after anything that they depend on has changed."""

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
from support.finished import BASELINE, LABELS, OTHER, SPACING, Finished, summarise
from support.label_maps import truncate, write_dataset_json, write_label_map
from support.trees import snapshot

from nnunet_xattnres.benchmark.report import scores as module
from nnunet_xattnres.benchmark.report.scores import TOLERANCE, Predictions, ScoredFolder, score
from nnunet_xattnres.evaluation import PROTOCOLS, compare
from nnunet_xattnres.evaluation.folders import CaseEvaluator
from nnunet_xattnres.utils.errors import UserError

REGIONS = {"nucleus": (1,), "cell wall": (2,)}


@pytest.fixture
def finished(finished_png, tmp_path) -> Finished:
    return finished_png.copy(tmp_path / "copy")


@pytest.fixture(params=["finished_png", "finished_nifti"])
def either(request, tmp_path) -> Finished:
    return request.getfixturevalue(request.param).copy(tmp_path / "copy")


@pytest.fixture
def predictions(finished) -> Predictions:
    return predictions_of(finished)


@pytest.fixture
def scored_cases(monkeypatch) -> list[str]:
    """The cases whose files have been read."""
    cases = []
    original = CaseEvaluator.__call__

    def evaluate(evaluation, case):
        cases.append(case)
        return original(evaluation, case)

    monkeypatch.setattr(CaseEvaluator, "__call__", evaluate)
    return cases


def predictions_of(finished: Finished, trainer: str = OTHER, fold: int = 0, protocol: str = "default") -> Predictions:
    run = finished.run(trainer, fold)
    folder, references = finished.folders.validation(run), finished.folders.references(finished.experiment)
    dataset_json = finished.folders.model(run) / "dataset.json"
    return Predictions(folder, references, dataset_json, tuple(finished.validated[fold]), protocol)


def read(path: Path) -> np.ndarray:
    """Read a label map without nnU-Net."""
    if path.suffix == ".png":
        return np.array(Image.open(path))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def remove_label(label: int, finished: Finished, *paths: Path) -> None:
    for path in paths:
        array = read(path)
        write_label_map(path, np.where(array == label, 0, array), None if finished.ending == ".png" else SPACING)


def expected_scores(folder: Predictions, ending: str = ".png") -> dict:
    spacing = (1, 1) if ending == ".png" else SPACING
    scores = {}
    for case in folder.cases:
        maps = [read(path / f"{case}{ending}").astype(int) for path in (folder.folder, folder.references)]
        scores[case] = compare(*maps, REGIONS, spacing, PROTOCOLS[folder.protocol], TOLERANCE)
    return scores


def score_one(folder: Predictions) -> dict:
    """Scores of a folder without problems."""
    (scored,) = score([folder], 1)
    assert (scored.problems, scored.notes) == ([], [])
    return scored.scores


def test_overlaps_are_those_of_nnunet(either):
    """One or both label maps lack a label; if both do, nnU-Net's score is NaN."""
    first, second, third, *_ = either.validated[0]
    remove_label(2, either, either.predicted(OTHER, first))
    remove_label(2, either, either.reference(second))
    remove_label(1, either, either.predicted(OTHER, third), either.reference(third))
    run = either.run(OTHER, 0)
    summarise(either, run)
    nnunet = load_summary_json(str(either.folders.validation(run) / "summary.json"))["metric_per_case"]
    scores = score_one(predictions_of(either))
    assert len(scores) == len(nnunet) == 5
    undefined = 0
    for entry in nnunet:
        case = Path(entry["prediction_file"]).name.removesuffix(either.ending)
        for region, value in [(region, value) for region, value in LABELS.items() if value]:
            for name, metric in (("Dice", "dice"), ("IoU", "iou")):
                expected, actual = entry["metrics"][value][name], scores[case][region][metric]
                undefined += actual is None
                assert np.isnan(expected) if actual is None else actual == pytest.approx(expected, rel=1e-12)
    assert undefined == 2
    assert [scores[case]["cell wall"]["dice"] for case in (first, second)] == [0, 0]


@pytest.mark.parametrize("protocol", ["default", "published"])
def test_all_scores_are_those_of_the_label_maps(either, protocol):
    """Distances are in mm for volumes, in pixels for natural images."""
    first, second, *_ = either.validated[0]
    remove_label(2, either, either.predicted(OTHER, first))
    remove_label(1, either, either.predicted(OTHER, second), either.reference(second))
    folder = predictions_of(either, protocol=protocol)
    scores = score_one(folder)
    assert list(scores) == either.validated[0]
    assert scores == expected_scores(folder, either.ending)


def test_regions_and_ignore_label(finished):
    folder = replace(predictions_of(finished), cases=(finished.validated[0][0],))
    labels = {"background": 0, "whole": [1, 2], "wall": [2], "ignore": 3}
    write_dataset_json(folder.dataset_json.parent, labels, ".png")
    case = folder.cases[0]
    reference, prediction = read(finished.reference(case)), read(folder.folder / f"{case}.png")
    reference[:, :14] = 3
    write_label_map(finished.reference(case), reference)
    expected = {}
    for region, values in {"whole": (1, 2), "wall": (2,)}.items():
        a, b = (np.isin(array, values) & (reference != 3) for array in (prediction, reference))
        expected[region] = 2 * (a & b).sum() / (a.sum() + b.sum())
    scores = score_one(folder)[case]
    assert {region: values["dice"] for region, values in scores.items()} == pytest.approx(expected)
    assert 0 < expected["wall"] < 1


def test_several_folders_and_worker_processes(finished, monkeypatch):
    """Jobs are pickled for worker processes, which return the cases in any order."""

    def map_unordered(function, items, workers, title):
        assert workers == 3
        for item in reversed(items):
            loaded, job = pickle.loads(pickle.dumps((function, item)))
            yield item, loaded(job)

    options = ((OTHER, 1), (BASELINE,), (BASELINE, 0, "published"))
    folders = [predictions_of(finished, *arguments) for arguments in options]
    monkeypatch.setattr(module, "map_unordered", map_unordered)
    scored = score(folders, 3)
    assert scored == [ScoredFolder(expected_scores(folder)) for folder in folders]
    assert [list(one.scores) for one in scored] == [list(folder.cases) for folder in folders]
    assert score(folders[::-1], 3) == scored[::-1]


class TestCache:
    @pytest.mark.parametrize("protocol", ["default", "published"])
    def test_computed_once(self, finished, scored_cases, protocol):
        folder = predictions_of(finished, protocol=protocol)
        assert score_one(folder) == score_one(folder)
        assert scored_cases == list(folder.cases)

    def test_files(self, finished):
        """There is one cache file per protocol, beside nnU-Net's folder, which does not change."""
        fold = finished.fold(OTHER, 0)
        before, beside = snapshot(fold / "validation"), set(fold.iterdir())
        remove_label(2, finished, finished.reference(finished.validated[0][0]))
        scores = [score_one(predictions_of(finished, protocol=p)) for p in ("default", "published", "default")]
        assert scores[0] == scores[2] != scores[1]
        assert snapshot(fold / "validation") == before
        names = {file.name for file in set(fold.iterdir()) - beside}
        assert names == {f"validation_scores_{protocol}.json" for protocol in ("default", "published")}

    @pytest.mark.parametrize("changed", ["prediction", "reference"])
    def test_a_label_map_changes(self, finished, predictions, changed):
        score_one(predictions)
        case = predictions.cases[1]
        path = finished.predicted(OTHER, case) if changed == "prediction" else finished.reference(case)
        write_label_map(path, np.where(read(path) == 1, 2, read(path)))
        assert score_one(predictions) == expected_scores(predictions)

    def test_a_label_map_changes_but_not_its_size(self, finished, predictions):
        """Only the modification time changes."""
        path = finished.predicted(OTHER, predictions.cases[0])
        before = score_one(predictions)
        size, array = path.stat().st_size, read(path)
        shifted = (np.roll(array, steps, 0) for steps in (1, -1, 2, -2))
        other = next(moved for moved in shifted if write_label_map(path, moved).stat().st_size == size)
        assert (other != array).any()
        assert score_one(predictions) == expected_scores(predictions) != before

    @pytest.mark.parametrize(
        ("labels", "regions"),
        [
            ({"background": 0, "core": 1, "cell wall": 2}, ["core", "cell wall"]),
            ({"background": 0, "nucleus": 2, "cell wall": 1}, ["nucleus", "cell wall"]),
            ({"background": 0, "nucleus": [1, 2], "cell wall": 2}, ["nucleus", "cell wall"]),
            ({"background": 0, "nucleus": 1, "ignore": 2}, ["nucleus"]),
        ],
    )
    def test_labels_change(self, predictions, labels, regions):
        before = score_one(predictions)
        write_dataset_json(predictions.dataset_json.parent, labels, ".png")
        after = score_one(predictions)
        assert list(after[predictions.cases[0]]) == regions
        assert after != before

    def test_the_reader_changes(self, finished_nifti, tmp_path, scored_cases):
        """Another reader may read another spacing."""
        folder = predictions_of(finished_nifti.copy(tmp_path / "copy"))
        score_one(folder)
        write_dataset_json(folder.dataset_json.parent, LABELS, ".nii.gz", overwrite_image_reader_writer="NibabelIO")
        score_one(folder)
        assert scored_cases == 2 * list(folder.cases)

    def test_cases_change(self, predictions):
        fewer = replace(predictions, cases=predictions.cases[1:])
        before = score_one(predictions)
        assert list(score_one(fewer)) == list(fewer.cases)
        assert score_one(predictions) == before

    def test_the_tolerance_changes(self, finished, monkeypatch):
        folder = predictions_of(finished, BASELINE)
        before = score_one(folder)
        monkeypatch.setattr(module, "TOLERANCE", 100.0)
        after = score_one(folder)
        assert all(region["surface_dice"] == 1 for case in after.values() for region in case.values())
        assert after != before

    def test_the_version_of_the_package_changes(self, predictions, scored_cases, monkeypatch):
        """Another version may compute other scores."""
        score_one(predictions)
        monkeypatch.setattr(module, "__version__", "99.0")
        score_one(predictions)
        assert scored_cases == 2 * list(predictions.cases)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"key": 1, "scores": {}}'])
    def test_a_damaged_cache(self, predictions, content):
        scores = score_one(predictions)
        predictions.cache_file().write_bytes(content)
        assert score_one(predictions) == scores
        assert json.loads(predictions.cache_file().read_text())["scores"] == scores

    def test_a_label_map_is_replaced_while_it_is_scored(self, finished, predictions, monkeypatch):
        """`nnUNetv2_train --val` may do this. The cache must not return old scores for the new file."""
        path = finished.predicted(OTHER, predictions.cases[0])
        other = np.where(read(path) == 1, 2, read(path))
        original = CaseEvaluator.__call__

        def evaluate(evaluation, case):
            scores = original(evaluation, case)
            if case == predictions.cases[0]:
                write_label_map(path, other)
            return scores

        with monkeypatch.context() as patch:
            patch.setattr(CaseEvaluator, "__call__", evaluate)
            score_one(predictions)
        assert score_one(predictions) == expected_scores(predictions)

    def test_a_read_only_file_system(self, finished, predictions, monkeypatch):
        def refuse(*_, **__):
            raise OSError(errno.EROFS, "Read-only file system")

        before = snapshot(finished.folders.results)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", refuse)
            patch.setattr(os, "replace", refuse)
            scores = score_one(predictions)
        assert snapshot(finished.folders.results) == before
        assert scores == score_one(predictions)


class TestProblems:
    def test_every_problem_is_one_line_and_the_other_cases_are_scored(self, finished, predictions):
        damaged, absent, foreign, lost, intact = predictions.cases
        truncate(finished.predicted(OTHER, damaged))
        finished.predicted(OTHER, absent).unlink()
        write_label_map(finished.predicted(OTHER, foreign), np.full((24, 28), 7))
        finished.reference(lost).unlink()
        for _ in range(2):
            (scored,) = score([predictions], 1)
            scores, problems = scored.scores, scored.problems
            assert scores == expected_scores(replace(predictions, cases=(intact,)))
            assert [problem.case for problem in problems] == [damaged, absent, foreign, lost]
            assert "7" in problems[2].text
            assert str(finished.reference(lost)) in problems[3].text
            assert not any("\n" in str(problem) for problem in problems)

    def test_a_repaired_file(self, finished, predictions):
        path = finished.predicted(OTHER, predictions.cases[0])
        content = path.read_bytes()
        truncate(path)
        assert len(score([predictions], 1)[0].problems) == 1
        path.write_bytes(content)
        assert list(score_one(predictions)) == list(predictions.cases)

    def test_a_temporary_problem_is_not_cached(self, predictions, monkeypatch):
        """Missing permissions or memory are solved without a change of the file."""

        def fail(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr("nnunet_xattnres.evaluation.label_maps.check_nifti", fail)
            (scored,) = score([predictions], 1)
            scores, problems = scored.scores, scored.problems
            assert (scores, len(problems)) == ({}, 5)
        assert list(score_one(predictions)) == list(predictions.cases)

    @pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"labels": {"background": 0}, "file_ending": ".png"}'])
    def test_unreadable_labels(self, predictions, content):
        predictions.dataset_json.unlink()
        if content is not None:
            predictions.dataset_json.write_text(content)
        with pytest.raises(UserError, match=str(predictions.dataset_json)):
            score([predictions], 1)
