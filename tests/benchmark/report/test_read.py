"""All readable results are read from nnU-Net's folders; everything else is listed with a code and its file."""

import csv
import io
import json
import os
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image
from support.finished import (
    BASELINE,
    CASES,
    EPOCH_SECONDS,
    LABELS,
    OTHER,
    TEST_CASES,
    Finished,
    change_debug,
    write_finished,
    write_log,
)
from support.label_maps import truncate, write_dataset_json, write_label_map
from support.trees import snapshot

from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.report import scores
from nnunet_xattnres.benchmark.report.analysis import ReportData
from nnunet_xattnres.benchmark.report.read import read_attempts, read_results
from nnunet_xattnres.benchmark.report.results import Results
from nnunet_xattnres.benchmark.report.write import cases_csv
from nnunet_xattnres.utils.errors import UserError

ALL = [(trainer, fold) for fold in range(3) for trainer in (BASELINE, OTHER)]


@pytest.fixture
def finished(scored, tmp_path) -> Finished:
    return scored.copy(tmp_path / "copy")


def trained(results: Results) -> list[tuple[str, int]]:
    return [(t.run.trainer, t.run.fold) for t in results.trained]


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def test_everything(scored):
    results = scored.results()
    assert (results.missing, results.warnings, results.unit) == ([], [], "voxels")
    assert trained(results) == ALL
    for training in results.trained:
        assert training.log.series("seconds") == ([0, 1], list(EPOCH_SECONDS[training.run.trainer]))
        assert (training.debug.epochs, training.debug.iterations, training.debug.host) == (2, 250, "node7")
        assert training.attempts == []
        rows = results.validation.query("trainer == @training.run.trainer and fold == @training.run.fold")
        assert rows.case.tolist() == np.repeat(scored.validated[training.run.fold], 2).tolist()
    assert results.regions == ["nucleus", "cell wall"]
    assert results.shared_folds() == {(0, 0), (0, 1), (0, 2)}
    assert list(results.test) == ["default", "published"]
    for table in results.test.values():
        expected = [(t, "together", case) for t in (BASELINE, OTHER) for case in TEST_CASES for _ in range(2)]
        assert list(zip(table.trainer, table.fold, table.case, strict=True)) == expected


def test_volumes_are_in_mm(scored_nifti):
    results = scored_nifti.results()
    assert (results.unit, results.missing, len(results.trained)) == ("mm", [], 6)


def test_repeats(tmp_path):
    finished = write_finished(tmp_path, repeats=2, folds=1)
    results = finished.results()
    runs = [(t.run.repeat, t.run.trainer) for t in results.trained]
    assert runs == [(r, t) for r in (0, 1) for t in (BASELINE, OTHER)]
    first, second = (results.validation.query("trainer == @OTHER and repeat == @r").dice.tolist() for r in (0, 1))
    assert first != second
    (finished.fold(OTHER, 0, repeat=1) / "validation" / "summary.json").unlink()
    (finding,) = finished.results().missing
    assert finding.code == "to validate"
    assert OTHER in finding.text and "repeat 1" in finding.text


def unfinished(results: Results) -> list[tuple[str, int]]:
    return [run for run in ALL if run not in trained(results)]


class TestMissing:
    def test_folds(self, finished):
        shutil.rmtree(finished.fold(OTHER, 1))
        shutil.rmtree(finished.fold(BASELINE, 2) / "validation")
        fold = finished.fold(BASELINE, 1)
        shutil.rmtree(fold / "validation")
        (fold / "checkpoint_final.pth").unlink()
        change_debug(fold, num_epochs="9")
        results = finished.results()
        assert unfinished(results) == [(BASELINE, 1), (OTHER, 1), (BASELINE, 2)]
        assert codes(results.missing) == ["started", "to train", "to validate"]
        for finding, (trainer, number) in zip(results.missing, unfinished(results), strict=True):
            assert finding.text.startswith(f"{trainer}, fold {number}: ")
        assert "2 of 9" in results.missing[0].text

    def test_a_trainer(self, finished):
        shutil.rmtree(finished.folders.model(finished.run(OTHER, 0)))
        results = finished.results()
        assert (unfinished(results), codes(results.missing)) == ([(OTHER, f) for f in range(3)], ["to train"] * 3)

    def test_splits_of_fewer_folds(self, finished):
        path = finished.preprocessed / "splits_final.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:2]))
        results = finished.results()
        assert (unfinished(results), codes(results.missing)) == ([(BASELINE, 2), (OTHER, 2)], ["no such fold"] * 2)

    def test_a_damaged_checkpoint(self, finished):
        """The checkpoint is listed, and the validation is used."""
        path = finished.fold(OTHER, 1) / "checkpoint_best.pth"
        torch.save({"weights": torch.zeros(1000)}, path)
        truncate(path)
        results = finished.results()
        assert (unfinished(results), codes(results.missing)) == ([], ["broken file"])
        assert f"{OTHER}, fold 1" in results.missing[0].text and path.name in results.missing[0].text

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"metric_per_case": null}', b'{"metric_per_case": [{}]}']
    )
    def test_a_damaged_summary(self, finished, content):
        (finished.fold(OTHER, 1) / "validation" / "summary.json").write_bytes(content)
        results = finished.results()
        assert (unfinished(results), codes(results.missing)) == ([(OTHER, 1)], ["broken file", "to validate"])
        assert all(finding.text.startswith(f"{OTHER}, fold 1: ") for finding in results.missing)
        assert "summary.json" in results.missing[0].text

    def test_a_summary_of_other_cases(self, finished):
        """The network may have been trained on these cases."""
        summary = finished.fold(OTHER, 1) / "validation" / "summary.json"
        shutil.copyfile(finished.fold(OTHER, 2) / "validation" / "summary.json", summary)
        results = finished.results()
        assert (unfinished(results), codes(results.missing)) == ([(OTHER, 1)], ["different splits"])

    def test_a_label_map(self, finished):
        """The other cases of the fold are used."""
        case = finished.validated[1][2]
        truncate(finished.predicted(OTHER, case))
        results = finished.results()
        assert (trained(results), codes(results.missing)) == (ALL, ["not scored"])
        assert results.missing[0].text.startswith(f"{OTHER}, fold 1: {case}: {finished.predicted(OTHER, case)} ")
        rows = results.validation.query("trainer == @OTHER and fold == 1")
        assert list(rows.case.unique()) == [c for c in finished.validated[1] if c != case]

    def test_all_label_maps_of_a_fold(self, finished):
        for case in finished.validated[1]:
            finished.predicted(OTHER, case).unlink()
        results = finished.results()
        assert unfinished(results) == [(OTHER, 1)]
        assert [finding.text.split(": ")[1] for finding in results.missing] == finished.validated[1]

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"labels": {"background": 0}}'])
    def test_labels_of_a_model(self, finished, content):
        """The preprocessed dataset.json is enough."""
        path = finished.folders.model(finished.run(OTHER, 0)) / "dataset.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        results = finished.results()
        assert (trained(results), results.missing) == (ALL, [])

    @pytest.mark.parametrize("content", [b"{}", b"{"])
    def test_labels_of_the_preprocessed_dataset(self, finished, content):
        """The dataset.json of a model is enough; without any, one finding is listed."""
        (finished.preprocessed / "dataset.json").write_bytes(content)
        assert trained(finished.results()) == ALL
        for trainer in (BASELINE, OTHER):
            (finished.folders.model(finished.run(trainer, 0)) / "dataset.json").write_bytes(content)
        results = finished.results()
        assert (trained(results), codes(results.missing)) == ([], ["unreadable"])

    @pytest.mark.parametrize("content", [None, "{", "{}", '{"configurations": {"3d_fullres": {}}}'])
    def test_plans(self, finished, content):
        path = finished.folders.plans(finished.experiment)
        path.unlink()
        if content is not None:
            path.write_text(content)
        results = finished.results()
        assert (trained(results), codes(results.missing)) == ([], ["unreadable"])
        assert results.missing[0].text.startswith(f"{path} ") and "\n" not in results.missing[0].text

    @pytest.mark.parametrize(
        ("content", "code"),
        [(None, "no splits"), ("{", "unreadable"), ("[1]", "unreadable"), ('[{"train": []}]', "unreadable")],
    )
    def test_splits(self, finished, content, code):
        path = finished.preprocessed / "splits_final.json"
        path.unlink()
        if content is not None:
            path.write_text(content)
        results = finished.results()
        assert (trained(results), codes(results.missing)) == ([], [code])
        assert str(path) in results.missing[0].text

    def test_one_of_two_datasets(self, finished):
        write_finished(finished.root / "other", dataset="Dataset008_More", folds=3)
        for folder in ("raw", "preprocessed", "results"):
            source = finished.root / "other" / f"nnUNet_{folder}" / "Dataset008_More"
            shutil.copytree(source, getattr(finished.folders, folder) / source.name)
        finished.folders.plans(finished.experiment).write_text("{")
        grid = Grid((finished.experiment.dataset, "Dataset008_More"), (BASELINE, OTHER), folds=(0, 1, 2))
        first, second = read_results(grid, finished.folders, 1)
        assert (len(first.trained), len(first.missing)) == (0, 1)
        assert (trained(second), second.missing) == (ALL, [])


class TestLogs:
    @pytest.fixture
    def log(self, finished):
        (path,) = finished.fold(OTHER, 1).glob("training_log_*.txt")
        return path

    def seconds(self, finished) -> tuple[list, list]:
        results = finished.results()
        assert (trained(results), results.missing) == (ALL, [])
        return results.trained_by(OTHER)[1].log.series("seconds")

    def test_cut_off(self, finished, log):
        log.write_text(log.read_text().split("Epoch 1")[0] + "Epoch 1 ")
        assert self.seconds(finished) == ([0], [15.0])

    def test_absent(self, finished, log):
        log.unlink()
        assert self.seconds(finished) == ([], [])

    def test_binary(self, finished, log):
        log.write_bytes(b"\xff\x00" * 1000 + log.read_bytes())
        assert self.seconds(finished) == ([0, 1], [15.0, 18.0])

    def test_of_a_continued_training(self, finished):
        write_log(finished.fold(OTHER, 1), [7.0], start=1, day=2)
        assert self.seconds(finished) == ([0, 1], [15.0, 7.0])


class TestAttempts:
    def test_damaged_lines_are_left_out(self, tmp_path):
        record = {"command": ["nnUNetv2_train"], "peak_memory_bytes": 5}
        lines = [
            json.dumps(record),
            '{"command": ["nnUNe',
            "[1]",
            "",
            "\x00\x00",
            json.dumps(record | {"exit_code": 1}),
        ]
        (tmp_path / "benchmark.jsonl").write_text("\n".join(lines))
        assert read_attempts(tmp_path) == [record, record | {"exit_code": 1}]

    def test_binary(self, tmp_path):
        (tmp_path / "benchmark.jsonl").write_bytes(b'\xff\xfe\n{"exit_code": 0}\n')
        assert read_attempts(tmp_path) == [{"exit_code": 0}]

    def test_absent(self, tmp_path):
        assert read_attempts(tmp_path) == read_attempts(tmp_path / "missing") == []

    def test_of_every_fold(self, finished):
        (finished.fold(OTHER, 1) / "benchmark.jsonl").write_text('{"exit_code": 0}\n')
        assert [t.attempts for t in finished.results().trained_by(OTHER)] == [[], [{"exit_code": 0}], []]


def test_labels_have_other_names_in_one_model(finished):
    """A dataset.json may be edited between trainings; labels are identified by their values."""
    expected = finished.results().validation
    write_dataset_json(finished.folders.model(finished.run(OTHER, 0)), {"background": 0, "core": 1, "wall": 2}, ".png")
    results = finished.results()
    assert results.regions == ["nucleus", "cell wall"]
    assert results.validation.equals(expected)


class TestTestCases:
    @pytest.mark.parametrize("removed", ["labelsTs", ""])
    def test_no_references(self, finished, removed):
        shutil.rmtree(finished.folders.raw_dataset(finished.experiment) / removed)
        results = finished.results()
        assert (results.test, results.missing, trained(results)) == ({}, [], ALL)

    def test_one_trainer(self, finished):
        shutil.rmtree(finished.folders.test_predictions(finished.run(OTHER, 0), (0, 1, 2)))
        assert {trainer for table in finished.results().test.values() for trainer in table.trainer} == {BASELINE}

    def test_a_label_map(self, finished):
        path = finished.folders.test_predictions(finished.run(OTHER, 0), (0, 1, 2)) / "test_1.png"
        truncate(path)
        results = finished.results()
        assert codes(results.missing) == ["not scored"]
        assert OTHER in results.missing[0].text and f"test_1: {path}" in results.missing[0].text
        assert list(results.test["published"].query("trainer == @OTHER").case.unique()) == ["test_0", "test_2"]

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"file_ending": ".png", "labels": {}}'])
    def test_a_dataset_json(self, finished, content):
        """Validation cases are read, and the file is listed once."""
        path = finished.folders.raw_dataset(finished.experiment) / "dataset.json"
        path.write_text(content)
        results = finished.results()
        assert (trained(results), codes(results.missing)) == (ALL, ["unreadable"])
        assert all(table.empty for table in results.test.values())
        assert str(path) in results.missing[0].text

    def test_predictions_of_earlier_networks(self, finished):
        os.utime(finished.fold(OTHER, 1) / "checkpoint_final.pth", (4e9, 4e9))
        (finding,) = finished.results().missing
        assert finding.code == "outdated"
        assert OTHER in finding.text


class TestReaders:
    """The reader is that of the plans; what was not read as it is stored is a warning."""

    def change_plans(self, finished, reader):
        path = finished.folders.plans(finished.experiment)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_reader_writer": reader}))

    def test_the_reader_of_the_plans(self, scored_nifti, tmp_path):
        """A fourth dimension of size 1 is read by ITK, not by nibabel."""
        finished = scored_nifti.copy(tmp_path / "copy")
        path = finished.predicted(OTHER, finished.validated[0][0])
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine), path)
        for reader, expected in (("SimpleITKIO", []), ("NibabelIO", ["not scored"])):
            self.change_plans(finished, reader)
            assert codes(finished.results().missing) == expected

    def test_a_reader_that_nnunet_does_not_have(self, finished):
        self.change_plans(finished, "OwnIO")
        results = finished.results()
        assert {*codes(results.missing)} == {"unreadable"} and trained(results) == []
        assert all("OwnIO" in finding.text for finding in results.missing)

    def test_values_beside_integers(self, scored_nifti, tmp_path):
        """Both trainers have the same reference; the warning is in the cache, too."""
        finished = scored_nifti.copy(tmp_path / "copy")
        path = finished.reference(finished.validated[0][0])
        image = sitk.ReadImage(path)
        sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32) * 0.9999999, path)
        for _ in range(2):
            results = finished.results()
            assert (results.missing, codes(results.warnings)) == ([], ["replaced values"])
            assert results.warnings[0].text.startswith("1 label map ") and str(path) in results.warnings[0].text
        assert results.validation.equals(scored_nifti.results().validation)


def test_read_only_results(finished_png, scored, tmp_path, monkeypatch):
    finished = finished_png.copy(tmp_path / "fresh")

    def refuse(path, text):
        raise UserError(f"cannot write {path} (Read-only file system)")

    monkeypatch.setattr(scores, "write_atomic", refuse)
    before = snapshot(tmp_path)
    results = finished.results()
    assert snapshot(tmp_path) == before
    assert results.validation.equals(scored.results().validation)


def test_from_label_maps_to_cases_csv(finished):
    """Dice and fold of every row of cases.csv, computed from the label maps."""
    case = finished.validated[2][1]
    write_label_map(finished.predicted(OTHER, case), np.zeros((24, 28)))
    text = cases_csv(ReportData(finished.grid, finished.folders, [finished.results()]))
    lines = [line for line in csv.DictReader(io.StringIO(text)) if line["part"] == "validation"]
    assert len(lines) == 2 * len(CASES) * 2
    for line in lines:
        paths = finished.predicted(line["trainer"], line["case"]), finished.reference(line["case"])
        a, b = (np.array(Image.open(path)) == LABELS[line["region"]] for path in paths)
        assert float(line["dice"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert int(line["fold"]) == finished.fold_of(line["case"])
        assert (line["hd95"] == "") == (line["trainer"] == OTHER and line["case"] == case)
