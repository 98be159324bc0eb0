"""What nnU-Net has left is read as far as it can be; the rest is named, and so is what the two sides do not share."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
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
    in_memory,
    row,
    write_finished,
    write_log,
)
from support.label_maps import damage, write_dataset_json, write_label_map
from support.trees import snapshot

from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.report import scores
from nnunet_xattnres.benchmark.report.export import cases_csv
from nnunet_xattnres.benchmark.report.report_data import ReportData
from nnunet_xattnres.benchmark.report.results import Results, collapsed, read_attempts, read_results
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Finished:
    """With its scores, so that copies need not compute them again."""
    finished = write_finished(tmp_path_factory.mktemp("finished"), tested=True)
    finished.results()
    return finished


@pytest.fixture
def finished(kept, tmp_path) -> Finished:
    return kept.copy(tmp_path / "copy")


def trained(results: Results) -> list[tuple[str, int]]:
    return [(t.run.trainer, t.run.fold) for t in results.trained]


ALL = [(trainer, fold) for fold in range(3) for trainer in (BASELINE, OTHER)]


def test_all_of_it(kept):
    results = kept.results()
    assert (results.missing, results.warnings, results.unit) == ([], [], "voxels")
    assert trained(results) == ALL
    for one in results.trained:
        assert list(one.scores) == kept.validated[one.run.fold]
        assert all(list(case) == ["nucleus", "cell wall"] for case in one.scores.values())
        assert one.log.series("seconds") == ([0, 1], list(EPOCH_SECONDS[one.run.trainer]))
        assert (one.debug.epochs, one.debug.iterations, one.debug.host) == (2, 250, "node7")
        assert one.attempts == []
    assert results.shared() == {(0, 0), (0, 1), (0, 2)}
    assert sorted(case for one in results.of(OTHER) for case in one.scores) == sorted(CASES)
    assert list(results.test) == ["default", "published"]
    for found in results.test.values():
        assert {key: tuple(cases) for key, cases in found.items()} == {(t, 0): TEST_CASES for t in (BASELINE, OTHER)}


def test_volumes_are_in_mm(tmp_path):
    results = write_finished(tmp_path, ending=".nii.gz", folds=2).results()
    assert (results.unit, results.missing, len(results.trained)) == ("mm", [], 4)


def test_repeats_lie_in_folders_of_their_own(tmp_path):
    finished = write_finished(tmp_path, repeats=2, folds=1)
    results = finished.results()
    assert [(t.run.repeat, t.run.trainer) for t in results.trained] == [
        (r, t) for r in (0, 1) for t in (BASELINE, OTHER)
    ]
    assert results.of(OTHER)[0].scores != results.of(OTHER)[1].scores
    (finished.fold(OTHER, 0, repeat=1) / "validation" / "summary.json").unlink()
    assert finished.results().missing == [f"{OTHER}, fold 0, repeat 1: trained, but not validated"]


def test_what_all_have_finished():
    """Of the trainers that have finished any."""
    one = {"x": {"organ": row(0.5)}}
    runs = [(BASELINE, 0), (BASELINE, 1), (BASELINE, 1, 1), (OTHER, 1), (OTHER, 2), (OTHER, 0, 1)]
    results = in_memory(dict.fromkeys(runs, one), trainers=(BASELINE, OTHER, "nnUNetTrainerEMCAD"))
    assert results.shared() == {(0, 1)}
    assert in_memory({}, trainers=(BASELINE, OTHER)).shared() == set()


class TestMissing:
    def left(self, finished: Finished) -> tuple[list, list[str]]:
        results = finished.results()
        return [run for run in ALL if run not in trained(results)], results.missing

    def test_a_fold(self, finished):
        shutil.rmtree(finished.fold(OTHER, 1))
        assert self.left(finished) == ([(OTHER, 1)], [f"{OTHER}, fold 1: not trained"])

    def test_a_trainer(self, finished):
        shutil.rmtree(finished.folders.model(finished.run(OTHER, 0)))
        told = [f"{OTHER}, fold {fold}: not trained" for fold in range(3)]
        assert self.left(finished) == ([(OTHER, fold) for fold in range(3)], told)

    def test_a_validation(self, finished):
        shutil.rmtree(finished.fold(BASELINE, 2) / "validation")
        assert self.left(finished) == ([(BASELINE, 2)], [f"{BASELINE}, fold 2: trained, but not validated"])

    def test_an_unfinished_training(self, finished):
        fold = finished.fold(BASELINE, 2)
        shutil.rmtree(fold / "validation")
        (fold / "checkpoint_final.pth").unlink()
        change_debug(fold, num_epochs="9")
        assert self.left(finished) == ([(BASELINE, 2)], [f"{BASELINE}, fold 2: stands at epoch 2 of 9"])

    def test_splits_of_fewer_folds(self, finished):
        path = finished.prepared / "splits_final.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:2]))
        told = [f"{trainer}, fold 2: splits_final.json has only 2 folds" for trainer in (BASELINE, OTHER)]
        assert self.left(finished) == ([(BASELINE, 2), (OTHER, 2)], told)

    def test_a_torn_checkpoint(self, finished):
        """It is named; what was validated counts."""
        path = finished.fold(OTHER, 1) / "checkpoint_best.pth"
        torch.save({"weights": torch.zeros(1000)}, path)
        damage(path)
        assert self.left(finished) == ([], [f"{OTHER}, fold 1: checkpoint_best.pth is incomplete"])

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"metric_per_case": null}', b'{"metric_per_case": [{}]}']
    )
    def test_a_corrupt_summary(self, finished, content):
        (finished.fold(OTHER, 1) / "validation" / "summary.json").write_bytes(content)
        runs, told = self.left(finished)
        assert runs == [(OTHER, 1)]
        assert all(line.startswith(f"{OTHER}, fold 1: ") for line in told)
        assert "summary.json cannot be read" in told[0] and told[-1].endswith("trained, but not validated")

    def test_a_summary_of_other_cases(self, finished):
        """Those may have been trained on."""
        summary = finished.fold(OTHER, 1) / "validation" / "summary.json"
        shutil.copyfile(finished.fold(OTHER, 2) / "validation" / "summary.json", summary)
        runs, (told,) = self.left(finished)
        assert runs == [(OTHER, 1)]
        assert told.startswith(f"{OTHER}, fold 1: ") and "splits_final.json" in told

    def test_a_label_map(self, finished):
        """The other cases of the fold count."""
        case = finished.validated[1][2]
        damage(finished.predicted(OTHER, case))
        results = finished.results()
        assert trained(results) == ALL
        (told,) = results.missing
        assert told.startswith(f"{OTHER}, fold 1: {case}: {finished.predicted(OTHER, case)} cannot be read (")
        assert [list(t.scores) for t in results.of(OTHER)][1] == [c for c in finished.validated[1] if c != case]

    def test_all_label_maps_of_a_fold(self, finished):
        for case in finished.validated[1]:
            finished.predicted(OTHER, case).unlink()
        runs, told = self.left(finished)
        assert runs == [(OTHER, 1)]
        assert [line.split(": ")[1] for line in told] == finished.validated[1]

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"labels": {"background": 0}}'])
    def test_the_labels_of_a_trainer(self, finished, content):
        """Whether they are needed or not: the baseline counts, and nothing is told twice."""
        path = finished.folders.model(finished.run(OTHER, 0)) / "dataset.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        results = finished.results()
        assert {(BASELINE, fold) for fold in range(3)} <= set(trained(results))
        assert bool(results.missing) == (len(results.trained) < 6)
        assert len(results.missing) == len(set(results.missing))

    @pytest.mark.parametrize("content", [None, "{", "{}", '{"configurations": {"3d_fullres": {}}}'])
    def test_plans(self, finished, content):
        path = finished.folders.plans(finished.experiment)
        path.unlink()
        if content is not None:
            path.write_text(content)
        results = finished.results()
        assert results.trained == []
        (told,) = results.missing
        assert told.startswith(f"{path} ") and "\n" not in told

    @pytest.mark.parametrize("content", [None, "{", "[1]", '[{"train": []}]', "{}"])
    def test_splits(self, finished, content):
        path = finished.prepared / "splits_final.json"
        path.unlink()
        if content is not None:
            path.write_text(content)
        results = finished.results()
        assert results.trained == []
        assert results.missing and str(path.name) in results.missing[0]

    def test_another_dataset_stays(self, finished):
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
    def test_torn(self, finished):
        (path,) = finished.fold(OTHER, 1).glob("training_log_*.txt")
        text = path.read_text()
        path.write_text(text[: text.index("Epoch 1") + 9])
        results = finished.results()
        assert (trained(results), results.missing) == (ALL, [])
        assert results.warnings == [f"{OTHER}, fold 1: the logs have 1 of 2 epochs"]
        assert results.of(OTHER)[1].log.series("seconds") == ([0], [15.0])

    def test_gone(self, finished):
        for path in finished.fold(OTHER, 1).glob("training_log_*.txt"):
            path.unlink()
        results = finished.results()
        assert (trained(results), results.missing) == (ALL, [])
        assert results.warnings == [f"{OTHER}, fold 1: the logs have 0 of 2 epochs"]

    def test_no_text(self, finished):
        (path,) = finished.fold(OTHER, 1).glob("training_log_*.txt")
        path.write_bytes(b"\xff\x00" * 1000 + path.read_bytes())
        results = finished.results()
        assert (trained(results), results.missing, results.warnings) == (ALL, [], [])

    def test_of_a_continued_training(self, finished):
        write_log(finished.fold(OTHER, 1), [7.0], start=1, day=2)
        (one,) = [t for t in finished.results().of(OTHER) if t.run.fold == 1]
        assert one.log.series("seconds") == ([0, 1], [15.0, 7.0])


class TestRecords:
    def test_torn_lines_are_left_out(self, tmp_path):
        whole = {"command": ["nnUNetv2_train"], "peak_memory_bytes": 5}
        lines = [json.dumps(whole), '{"command": ["nnUNe', "[1]", "", "\x00\x00", json.dumps(whole | {"exit_code": 1})]
        (tmp_path / "benchmark.jsonl").write_text("\n".join(lines))
        assert read_attempts(tmp_path) == [whole, whole | {"exit_code": 1}]

    def test_no_text(self, tmp_path):
        (tmp_path / "benchmark.jsonl").write_bytes(b'\xff\xfe\n{"exit_code": 0}\n')
        assert read_attempts(tmp_path) == [{"exit_code": 0}]

    def test_none(self, tmp_path):
        assert read_attempts(tmp_path) == read_attempts(tmp_path / "missing") == []

    def test_of_every_fold(self, finished):
        (finished.fold(OTHER, 1) / "benchmark.jsonl").write_text('{"exit_code": 0}\n')
        assert [t.attempts for t in finished.results().of(OTHER)] == [[], [{"exit_code": 0}], []]


class TestWarnings:
    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("num_epochs", "1", f"epochs differ between trainings: 1 ({OTHER}); 2 ({BASELINE}, {OTHER})"),
            ("num_iterations_per_epoch", "20", f": 20 ({OTHER}); 250 ({BASELINE}, {OTHER})"),
            ("batch_size", "12", f"batch size differ between trainings: 12 ({OTHER}); 2 ({BASELINE}, {OTHER})"),
            ("device", "mps", f"device differ between trainings: cpu ({BASELINE}, {OTHER}); mps ({OTHER})"),
            ("gpu_name", "H200", f"device differ between trainings: H200 ({OTHER}); cpu ({BASELINE}, {OTHER})"),
            ("torch_version", "2.9", f"PyTorch differ between trainings: 2.7.0 ({BASELINE}, {OTHER}); 2.9 ({OTHER})"),
        ],
    )
    def test_what_differs_and_who(self, finished, key, value, told):
        change_debug(finished.fold(OTHER, 1), **{key: value})
        (line,) = finished.results().warnings
        assert line.endswith(told)

    def test_of_every_fold(self, finished):
        for fold in range(3):
            change_debug(finished.fold(OTHER, fold), batch_size="12")
        assert finished.results().warnings == [f"batch size differ between trainings: 12 ({OTHER}); 2 ({BASELINE})"]

    def test_plans_say_in_what(self, finished):
        """The beginnings of two configurations are alike."""
        path = finished.fold(OTHER, 1) / "debug.json"
        text = json.loads(path.read_text())["configuration_manager"]
        change_debug(
            path.parent, configuration_manager=text.replace("'patch_size': [16, 16]", "'patch_size': [32, 64]")
        )
        (line,) = finished.results().warnings
        assert "plans" in line and OTHER in line
        assert "patch_size" in line.split("differ between trainings: ")[1] and "[32, 64]" in line

    @pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]"])
    def test_what_one_side_does_not_tell(self, finished, content):
        for fold in range(3):
            path = finished.fold(OTHER, fold) / "debug.json"
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        results = finished.results()
        assert trained(results) == ALL
        assert f"PyTorch differ between trainings: 2.7.0 ({BASELINE}); unknown ({OTHER})" in results.warnings
        assert len(results.warnings) == 6

    def test_the_same_on_both_sides_is_fair(self, finished):
        """Each fold of the two on a device of its own."""
        for trainer in (BASELINE, OTHER):
            change_debug(finished.fold(trainer, 1), gpu_name="H200")
        assert finished.results().warnings == []

    def test_not_equally_many(self, finished):
        shutil.rmtree(finished.fold(OTHER, 1))
        compared = "means are of folds that all have finished, each comparison of those that both have"
        told = f"not equally many trainings ({BASELINE} 3, {OTHER} 2): {compared}"
        assert finished.results().warnings == [told]

    def test_cases_of_two_folds(self, finished):
        """As of splits by hand."""
        case, path = finished.validated[0][0], finished.prepared / "splits_final.json"
        splits = json.loads(path.read_text())
        splits[1]["val"].append(case)
        path.write_text(json.dumps(splits))
        for trainer in (BASELINE, OTHER):
            folder = finished.fold(trainer, 1) / "validation"
            shutil.copyfile(finished.fold(trainer, 0) / "validation" / f"{case}.png", folder / f"{case}.png")
            summary = json.loads((folder / "summary.json").read_text())
            files = {f"{what}_file": f"/somewhere/{case}.png" for what in ("prediction", "reference")}
            summary["metric_per_case"].append({"metrics": {}, **files})
            (folder / "summary.json").write_text(json.dumps(summary))
        results = finished.results()
        assert (trained(results), results.missing) == (ALL, [])
        told = "1 cases are validated in more than one fold: they count once, with their mean"
        assert results.warnings == [told]


def test_labels_under_other_names_on_one_side(finished):
    """Names are given again when a dataset.json is edited between trainings; the values are what was trained."""
    expected = finished.results()
    model = finished.folders.model(finished.run(OTHER, 0))
    write_dataset_json(model, {"background": 0, "core": 1, "wall": 2}, ".png")
    results = finished.results()
    assert trained(results) == ALL
    names = {tuple(case) for one in results.trained for case in one.scores.values()}
    assert names == {("nucleus", "cell wall")}
    assert [t.scores for t in results.trained] == [t.scores for t in expected.trained]


class TestTestCases:
    def test_none(self, kept, tmp_path):
        finished = kept.copy(tmp_path / "copy")
        shutil.rmtree(finished.folders.raw_dataset(finished.experiment) / "labelsTs")
        results = finished.results()
        assert (results.test, results.missing) == ({}, [])

    def test_no_raw_dataset(self, finished):
        shutil.rmtree(finished.folders.raw_dataset(finished.experiment))
        results = finished.results()
        assert (results.test, results.missing, trained(results)) == ({}, [], ALL)

    def test_only_one_trainer(self, finished):
        shutil.rmtree(finished.folders.test_predictions(finished.run(OTHER, 0), (0, 1, 2)))
        assert {trainer for found in finished.results().test.values() for trainer, _ in found} == {BASELINE}

    def test_a_label_map(self, finished):
        path = finished.folders.test_predictions(finished.run(OTHER, 0), (0, 1, 2)) / "test_1.png"
        damage(path)
        results = finished.results()
        (told,) = results.missing
        assert told.startswith(f"{OTHER}, test: test_1: {path} cannot be read (")
        assert list(results.test["published"][OTHER, 0]) == ["test_0", "test_2"]

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"file_ending": ".png", "labels": {}}'])
    def test_a_dataset_json(self, finished, content):
        """The validation stands, and what is wrong is said."""
        path = finished.folders.raw_dataset(finished.experiment) / "dataset.json"
        path.write_text(content)
        results = finished.results()
        assert trained(results) == ALL
        assert not any(cases for found in results.test.values() for cases in found.values())
        assert [line for line in results.missing if str(path) in line] == results.missing != []
        assert len(results.missing) == len(set(results.missing))


def test_results_that_may_only_be_read(kept, tmp_path, monkeypatch):
    finished = write_finished(tmp_path / "fresh")

    def refuse(path, text):
        raise UserError(f"cannot write {path} (Read-only file system)")

    monkeypatch.setattr(scores, "write_atomic", refuse)
    before = snapshot(tmp_path)
    results = finished.results()
    assert snapshot(tmp_path) == before
    assert [t.scores for t in results.trained] == [t.scores for t in kept.results().trained]


def test_the_cases_are_those_of_the_label_maps(finished):
    """From the files to cases.csv: by hand, of every row."""
    case = finished.validated[2][1]
    write_label_map(finished.predicted(OTHER, case), np.zeros((24, 28)))
    lines = csv.DictReader(io.StringIO(cases_csv(ReportData(finished.grid, finished.folders, [finished.results()]))))
    lines = [line for line in lines if line["part"] == "validation"]
    assert len(lines) == 2 * 15 * 2
    for line in lines:
        paths = finished.predicted(line["trainer"], line["case"]), finished.reference(line["case"])
        a, b = (np.array(Image.open(path)) == LABELS[line["region"]] for path in paths)
        assert float(line["dice"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert int(line["fold"]) == finished.fold_of(line["case"])
        assert (line["hd95"] == "") == (line["trainer"] == OTHER and line["case"] == case)


def test_a_trainer_that_has_hardly_learned():
    nothing = {case: {"organ": row(0.001), "lesion": row(None)} for case in "abc"}
    something = {case: {"organ": row(0.9), "lesion": row(0.0)} for case in "abc"}
    results = in_memory({(BASELINE, 0, 0): nothing, (OTHER, 0, 0): something})
    (line,) = collapsed(results)
    assert line == f"{BASELINE} has hardly learned: Dice below 1 % in 3 of 3 cases; train longer"


def test_what_is_rightly_empty_is_no_failure():
    """Six cases without a label, left empty, and four that are found."""
    cases = {str(n): {"lesion": row(None if n < 6 else 0.9)} for n in range(10)}
    assert collapsed(in_memory({(BASELINE, 0, 0): cases})) == []
    nothing = cases | {str(n): {"lesion": row(0.0)} for n in range(6, 9)}
    (line,) = collapsed(in_memory({(BASELINE, 0, 0): nothing}))
    assert "in 3 of 4 cases" in line


def test_predictions_of_networks_that_are_gone(finished):
    final = finished.fold(OTHER, 1) / "checkpoint_final.pth"
    os.utime(final, (4e9, 4e9))
    (line,) = finished.results().missing
    assert line == f"{OTHER}, test: predicted before a fold was trained anew; `run --test` predicts again"
