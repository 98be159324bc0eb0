"""Grids from the command line and from files, and the order of their runs."""

import json
from itertools import groupby, product
from pathlib import Path

import pytest

from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid, Run, from_options, read_options
from nnunet_xattnres.training.lookup import find_trainer
from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.paths import trainers_path

NAMES = {"datasets": ["4"], "trainers": ["nnUNetTrainer", "nnUNetTrainerXAttnRes"]}
LARGE = Grid(("Dataset001_A", "Dataset002_B"), ("T", "U", "V"), ("2d", "3d_fullres"), ("P", "Q"), (0, 3), 2)


def test_defaults():
    grid = from_options(NAMES, "here")
    assert grid.experiments() == [ExperimentKey("4", "2d", "nnUNetPlans")]
    assert (list(grid.folds), grid.repeats, grid.baseline) == ([0, 1, 2, 3, 4], 1, "nnUNetTrainer")


def test_options_of_the_command_line_are_text():
    given = {"configurations": ["2d", "3d_fullres"], "plans": ["P", "Q"], "folds": ["0", "03"], "repeats": 2}
    grid = from_options(NAMES | given, "the command line")
    assert grid == Grid(("4",), ("nnUNetTrainer", "nnUNetTrainerXAttnRes"), ("2d", "3d_fullres"), ("P", "Q"), (0, 3), 2)


@pytest.mark.parametrize("grid", [LARGE, Grid(("Dataset001_A",), ("T", "U"))])
def test_saving_and_reading_a_grid(tmp_path, grid):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(grid.options(), indent=1))
    assert from_options(read_options(path), str(path)) == grid


def test_single_values(tmp_path):
    path = tmp_path / "benchmark.yaml"
    path.write_text("datasets: 4\ntrainers: [T, U]\nconfigurations: 3d_fullres\nfolds: 0\nrepeats: '3'\n")
    grid = from_options(read_options(path), str(path))
    assert grid == Grid(("4",), ("T", "U"), ("3d_fullres",), folds=(0,), repeats=3)


@pytest.mark.parametrize("number", ["004", "010", "027"])
def test_a_number_with_leading_zeros(tmp_path, number):
    """YAML would read it as an octal number."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(f"datasets: [{number}]\ntrainers: [T, U]\nfolds: [{number}]\n")
    grid = from_options(read_options(path), str(path))
    assert [int(name) for name in grid.datasets] == list(grid.folds) == [int(number)]


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"trainer": "T"}, "trainer", ""), ({1: 2, "b": 3}, "1, b", ""),
        ({"datasets": []}, "datasets", "[]"), ({"datasets": [4.5]}, "datasets", "[4.5]"),
        ({"datasets": [4, "4"]}, "datasets", "4, 4"), ({"trainers": None}, "trainers", "None"),
        ({"trainers": [None]}, "trainers", "[None]"), ({"trainers": [["T", "U"]]}, "trainers", ""),
        ({"trainers": {"T": 1}}, "trainers", ""), ({"trainers": ["T", "U", "T"]}, "trainers", "T, U, T"),
        ({"plans": True}, "plans", "True"), ({"folds": 0.5}, "folds", "0.5"), ({"folds": [0, False]}, "folds", "False"),
        ({"folds": ["all"]}, "fold", "'all'"), ({"folds": [0, -1]}, "fold", "-1"), ({"folds": ["-1"]}, "fold", "'-1'"),
        ({"folds": ["1.0"]}, "fold", "'1.0'"), ({"folds": ["²"]}, "fold", "'²'"), ({"folds": ["٣"]}, "fold", "'٣'"),
        ({"folds": [0, "00"]}, "folds", "0, 0"), ({"repeats": 0}, "repeats", "0"),
        ({"repeats": True}, "repeats", "True"), ({"repeats": [2]}, "repeats", "[2]"),
        ({"repeats": 1.5}, "repeats", "1.5"),
        ({"repeats": None}, "repeats", "None"), ({"repeats": "two"}, "repeats", "'two'"),
    ],
)  # fmt: skip
def test_wrong_values(options, name, value):
    with pytest.raises(UserError) as error:
        from_options(NAMES | options, "here")
    message = str(error.value)
    assert message.startswith("here") and name in message and value in message and "\n" not in message


@pytest.mark.parametrize("name", ["datasets", "trainers"])
def test_required_names(name):
    options = {other: value for other, value in NAMES.items() if other != name}
    with pytest.raises(UserError, match=f"^benchmark.yaml .*{name}"):
        from_options(options, "benchmark.yaml")


def refuse(path):
    with pytest.raises(UserError, match=f"^{path}") as error:
        from_options(read_options(path), str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"), (b"datasets: [4", "flow sequence"), (b"datasets:\n\t- 4\n", "scanning"),
        (b"\xff\xfe\x00datasets", "codec"), (b"", "NoneType"), (b"- 4\n- T\n", "list"), (b"datasets 4\n", "str"),
    ],
)  # fmt: skip
def test_files_without_a_grid(tmp_path, content, reason):
    path = tmp_path / "benchmark.yaml"
    if content is not None:
        path.write_bytes(content)
    assert reason in refuse(path)
    assert "Is a directory" in refuse(tmp_path)


@pytest.mark.parametrize(
    "fold", ["2026-11-22", "2026-13-45", "0x1", "1e1", "1:30", "1_0", "+1", "~", "yes", "[0]", "{}"]
)
def test_folds_that_yaml_would_convert(tmp_path, fold):
    path = tmp_path / "benchmark.yaml"
    path.write_text(f"datasets: 4\ntrainers: [T, U]\nfolds: [{fold}]\n")
    refuse(path)


@pytest.mark.parametrize("name", ["datasets", "trainers", "configurations", "plans", "folds", "repeats"])
def test_an_entry_without_a_value(tmp_path, name):
    path = tmp_path / "benchmark.yaml"
    for value in ("", "''", "[4, '']"):
        entries = {"datasets": "4", "trainers": "[T, U]"} | {name: value}
        path.write_text("".join(f"{entry}: {given}\n" for entry, given in entries.items()))
        refuse(path)


def test_every_run_once():
    runs = list(LARGE.runs())
    names = product(LARGE.datasets, LARGE.configurations, LARGE.plans, LARGE.trainers, LARGE.folds, range(2))
    assert {(*vars(r.experiment).values(), r.trainer, r.fold, r.repeat) for r in runs} == set(names)
    assert len(runs) == 2 * 2 * 2 * 3 * 2 * 2


def test_the_order_keeps_folds_paired():
    """All trainers of a fold follow each other, the baseline first."""
    groups = [
        (key, [run.trainer for run in group])
        for key, group in groupby(LARGE.runs(), key=lambda run: (run.repeat, run.experiment, run.fold))
    ]
    assert len(groups) == len({key for key, _ in groups})
    assert all(trainers == list(LARGE.trainers) for _, trainers in groups)


def test_repeats_come_last():
    repeats = [run.repeat for run in LARGE.runs()]
    assert repeats == sorted(repeats)


def test_runs_of_one_experiment():
    experiments = LARGE.experiments()
    assert [list(LARGE.runs(s)) for s in experiments] == [
        [r for r in LARGE.runs() if r.experiment == s] for s in experiments
    ]


def test_text_of_a_run():
    experiment = ExperimentKey("Dataset004_Organs", "2d", "nnUNetPlans")
    assert str(Run(experiment, "T", 3)) == "Dataset004_Organs, 2d, nnUNetPlans: T, fold 3"
    assert str(Run(experiment, "T", 3, 1)) == "Dataset004_Organs, 2d, nnUNetPlans: T, fold 3, repeat 1"


def test_the_included_grid(monkeypatch):
    """All of its trainers exist."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "routings.yaml"
    grid = from_options(read_options(path), path.name)
    assert [find_trainer(name).__name__ for name in grid.trainers] == list(grid.trainers)
    assert len(list(grid.runs())) == 2 * 4 * 5
