"""Warnings name what differs between trainings, with its values and trainers, and nothing else."""

from dataclasses import replace

import pytest
from support.finished import change_debug
from support.results import BASELINE, OTHER, THIRD, cases, in_memory, row

from nnunet_xattnres.benchmark.log import Debug, Log
from nnunet_xattnres.benchmark.report.fairness import EQUAL_SETTINGS, find_warnings
from nnunet_xattnres.benchmark.report.results import Results

DEBUG = Debug(2, 250, "2", "cpu", "2.7.0", "node7", "{'patch_size': [16, 16], 'batch_size': 2}")


def trained(log_epochs: int = 2, folds: int = 3) -> Results:
    trainings = {(trainer, fold): cases(**{f"x{fold}": 0.5}) for fold in range(folds) for trainer in (BASELINE, OTHER)}
    return in_memory(trainings, debug=DEBUG, log=Log({n: {"train_loss": 0.0} for n in range(log_epochs)}))


def change(results: Results, trainer: str, folds=(1,), **changes) -> None:
    """Change the debug.json of some trainings."""
    for i, t in enumerate(results.trained):
        if t.run.trainer == trainer and t.run.fold in folds:
            results.trained[i] = replace(t, debug=replace(t.debug, **changes))


def test_nothing():
    assert find_warnings(trained()) == find_warnings(in_memory({}, trainers=(BASELINE, OTHER))) == []


@pytest.mark.parametrize(
    ("name", "value", "old"),
    [
        ("epochs", 1, "2"), ("iterations", 20, "250"), ("batch_size", "12", "2"), ("device", "H200", "cpu"),
        ("torch", "2.9", "2.7.0"),
        ("configuration", "{'patch_size': [32, 64], 'batch_size': 2}", "patch_size [16, 16]"),
        ("configuration", "no dictionary", DEBUG.configuration[:37]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folds", [(1,), (0, 1, 2)])
def test_different_settings(name, value, old, folds):
    """The finding has the values of both sides and the trainers that have them."""
    results = trained()
    change(results, OTHER, folds, **{name: value})
    (finding,) = [p for p in find_warnings(results) if p.code != "incomplete log"]
    assert finding.code == f"different {name}"
    assert finding.text.startswith(EQUAL_SETTINGS[name])
    new = "patch_size [32, 64]" if "patch_size" in str(value) else str(value)
    assert f"{new} ({OTHER})" in finding.text
    assert old in finding.text and f"({BASELINE}{f', {OTHER}' if len(folds) == 1 else ''})" in finding.text
    assert name != "configuration" or "batch_size" not in finding.text.split("differ")[1] or "no dict" in value


def test_settings_that_only_one_side_records():
    results = trained()
    results.trained = [replace(t, debug=Debug()) if t.run.trainer == OTHER else t for t in results.trained]
    warnings = find_warnings(results)
    assert [finding.code for finding in warnings] == [f"different {name}" for name in EQUAL_SETTINGS]
    assert all(f"unknown ({OTHER})" in finding.text for finding in warnings)


def test_settings_that_differ_between_folds_only():
    """Both trainings of a fold ran on another device, so the comparison within the fold is fair."""
    results = trained()
    for trainer in (BASELINE, OTHER):
        change(results, trainer, device="H200")
    assert find_warnings(results) == []


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]"])
def test_a_damaged_debug_json(scored, tmp_path, content):
    finished = scored.copy(tmp_path / "copy")
    path = finished.fold(OTHER, 1) / "debug.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    codes = [finding.code for finding in finished.results().warnings]
    assert codes == [f"different {name}" for name in EQUAL_SETTINGS]


def test_from_debug_json(scored, tmp_path):
    finished = scored.copy(tmp_path / "copy")
    change_debug(finished.fold(OTHER, 1), gpu_name="H200")
    change_debug(finished.fold(OTHER, 2), num_epochs="9")
    results = finished.results()
    assert [p.code for p in results.warnings] == ["different epochs", "different device", "incomplete log"]
    assert results.warnings[-1].text.startswith(f"{OTHER}, fold 2: ") and "2 of 9" in results.warnings[-1].text


def test_incomplete_logs():
    warnings = find_warnings(trained(log_epochs=1, folds=1))
    assert [finding.code for finding in warnings] == ["incomplete log"] * 2
    assert all("1 of 2" in finding.text for finding in warnings)


def test_different_numbers_of_trainings():
    results = trained()
    results.trainers = (*results.trainers, THIRD)
    results.trained.pop()
    (finding,) = find_warnings(results)
    assert finding.code == "unequal trainings"
    assert f"{BASELINE} 3" in finding.text and f"{OTHER} 2" in finding.text and THIRD not in finding.text


def test_cases_in_two_folds():
    """A splits_final.json that was written by hand may have this."""
    trainings = {(trainer, fold): cases(x=0.5, y=0.5) for trainer in (BASELINE, OTHER) for fold in (0, 1)}
    trainings[BASELINE, 2] = trainings[OTHER, 2] = cases(z=0.5)
    (finding,) = find_warnings(in_memory(trainings))
    assert finding.code == "duplicate cases"
    assert "2" in finding.text


def test_a_trainer_that_has_not_learned():
    nothing = {case: {"organ": row(0.001), "lesion": row(None)} for case in "abc"}
    something = {case: {"organ": row(0.9), "lesion": row(0.0)} for case in "abc"}
    (finding,) = find_warnings(in_memory({(BASELINE, 0, 0): nothing, (OTHER, 0, 0): something}))
    assert finding.code == "not learned"
    assert finding.text.startswith(BASELINE) and "1 %" in finding.text and "3 of 3" in finding.text


def test_empty_predictions_that_are_correct():
    """Six cases without a label have undefined Dice; four have a high Dice."""
    correct = {str(n): {"lesion": row(None if n < 6 else 0.9)} for n in range(10)}
    assert find_warnings(in_memory({(BASELINE, 0, 0): correct})) == []
    missed = correct | {str(n): {"lesion": row(0.0)} for n in range(6, 9)}
    (finding,) = find_warnings(in_memory({(BASELINE, 0, 0): missed}))
    assert finding.code == "not learned" and "3 of 4" in finding.text
