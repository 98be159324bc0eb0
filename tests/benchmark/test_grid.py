"""What a benchmark compares, from the command line or a file, and the order in which it is trained."""

import json
import re
from itertools import groupby, product
from pathlib import Path

import pytest

from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid, Run, from_options, read_options
from nnunet_xattnres.cli import benchmark
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
def test_what_is_kept_is_what_was(tmp_path, grid):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(grid.options(), indent=1))
    assert from_options(read_options(path), str(path)) == grid


def test_the_file_that_the_help_shows(tmp_path):
    example = re.search(r"^benchmark\.yaml.*:\n((?:  .*\n)+)", benchmark.__doc__, re.MULTILINE)[1]
    path = tmp_path / "benchmark.yaml"
    path.write_text(example)
    grid = from_options(read_options(path), str(path))
    assert grid.datasets == ("4", "Dataset501_Nuclei")
    assert grid.trainers == ("nnUNetTrainer_50epochs", "nnUNetTrainerXAttnRes_50epochs")
    left_out = from_options(NAMES, "here")
    for name in ("configurations", "plans", "folds", "repeats"):
        assert getattr(grid, name) == getattr(left_out, name)


def test_single_values(tmp_path):
    path = tmp_path / "benchmark.yaml"
    path.write_text("datasets: 4\ntrainers: [T, U]\nconfigurations: 3d_fullres\nfolds: 0\nrepeats: '3'\n")
    grid = from_options(read_options(path), str(path))
    assert grid == Grid(("4",), ("T", "U"), ("3d_fullres",), folds=(0,), repeats=3)


@pytest.mark.parametrize("number", ["004", "010", "027"])
def test_a_number_with_the_zeros_of_the_folder_is_that_number(tmp_path, number):
    """YAML's own numbers are octal then; on the command line they are not."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(f"datasets: [{number}]\ntrainers: [T, U]\nfolds: [{number}]\n")
    grid = from_options(read_options(path), str(path))
    assert [int(name) for name in grid.datasets] == list(grid.folds) == [int(number)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"trainer": "T"}, "here has trainer, but only datasets, trainers, configurations, plans, folds, repeats are"),
        ({1: 2, "b": 3}, "here has 1, b, but only datasets,"),
        ({"datasets": []}, r"here: datasets must be a name or a list of names, got \[\]"),
        ({"trainers": None}, "here: trainers must be a name or a list of names, got None"),
        ({"trainers": [None]}, r"here: trainers must be a name or a list of names, got \[None\]"),
        ({"trainers": [["T", "U"]]}, "here: trainers must be a name or a list of names, got"),
        ({"trainers": {"T": 1}}, "here: trainers must be a name or a list of names, got"),
        ({"plans": True}, "here: plans must be a name or a list of names, got True"),
        ({"datasets": [4.5]}, r"here: datasets must be a name or a list of names, got \[4.5\]"),
        ({"folds": 0.5}, "here: folds must be a name or a list of names, got 0.5"),
        ({"folds": [0, False]}, "here: folds must be a name or a list of names, got"),
        ({"folds": ["all"]}, "here: a fold must be a whole number of at least 0, got 'all'"),
        ({"folds": [0, -1]}, "here: a fold must be a whole number of at least 0, got -1"),
        ({"folds": ["-1"]}, "here: a fold must be a whole number of at least 0, got '-1'"),
        ({"folds": ["1.0"]}, "here: a fold must be a whole number of at least 0, got '1.0'"),
        ({"folds": ["²"]}, "here: a fold must be a whole number of at least 0, got '²'"),
        ({"folds": ["٣"]}, "here: a fold must be a whole number of at least 0, got '٣'"),
        ({"repeats": 0}, "here: repeats must be a whole number of at least 1, got 0"),
        ({"repeats": True}, "here: repeats must be a whole number of at least 1, got True"),
        ({"repeats": [2]}, r"here: repeats must be a whole number of at least 1, got \[2\]"),
        ({"repeats": 1.5}, "here: repeats must be a whole number of at least 1, got 1.5"),
        ({"repeats": None}, "here: repeats must be a whole number of at least 1, got None"),
        ({"repeats": "two"}, "here: repeats must be a whole number of at least 1, got 'two'"),
        ({"trainers": ["T", "U", "T"]}, "here: trainers has something twice: T, U, T"),
        ({"datasets": [4, "4"]}, "here: datasets has something twice: 4, 4"),
        ({"folds": [0, "00"]}, "here: folds has something twice: 0, 0"),
    ],
)
def test_wrong_values(given, told):
    with pytest.raises(UserError, match=f"^{told}") as error:
        from_options(NAMES | given, "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["datasets", "trainers"])
def test_what_is_never_left_out(name):
    given = {other: value for other, value in NAMES.items() if other != name}
    with pytest.raises(UserError, match=f"^benchmark.yaml names no {name}$"):
        from_options(given, "benchmark.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"cannot be read as YAML \(.*No such file or directory"),
        (b"datasets: [4", r"cannot be read as YAML \(while parsing a flow sequence"),
        (b"datasets:\n\t- 4\n", r"cannot be read as YAML \(while scanning"),
        (b"\xff\xfe\x00datasets", r"cannot be read as YAML \(.*codec can't decode"),
        (b"", "must name datasets and trainers, it holds NoneType"),
        (b"- 4\n- T\n", "must name datasets and trainers, it holds list"),
        (b"datasets 4\n", "must name datasets and trainers, it holds str"),
    ],
)
def test_files_that_are_none(tmp_path, content, told):
    path = tmp_path / "benchmark.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} {told}") as error:
        read_options(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fold", ["2026-11-22", "2026-13-45", "0x1", "1e1", "1:30", "1_0", "+1", "~", "yes", "[0]", "{}"]
)
def test_folds_that_yaml_reads_in_its_own_way(tmp_path, fold):
    path = tmp_path / "benchmark.yaml"
    path.write_text(f"datasets: 4\ntrainers: [T, U]\nfolds: [{fold}]\n")
    with pytest.raises(UserError) as error:
        from_options(read_options(path), str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["datasets", "trainers", "configurations", "plans", "folds", "repeats"])
@pytest.mark.parametrize("value", ["", "''", "[4, '']"])
def test_an_entry_without_a_value(tmp_path, name, value):
    entries = {"datasets": "4", "trainers": "[T, U]"} | {name: value}
    path = tmp_path / "benchmark.yaml"
    path.write_text("".join(f"{entry}: {given}\n" for entry, given in entries.items()))
    with pytest.raises(UserError, match=f"^{path}: ") as error:
        from_options(read_options(path), str(path))
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read as YAML \(.*Is a directory.*\): see xattnres benchmark run -"):
        read_options(tmp_path)


def test_every_run_once():
    runs = list(LARGE.runs())
    names = product(LARGE.datasets, LARGE.configurations, LARGE.plans, LARGE.trainers, LARGE.folds, range(2))
    assert {(*vars(r.experiment).values(), r.trainer, r.fold, r.repeat) for r in runs} == set(names)
    assert len(runs) == 2 * 2 * 2 * 3 * 2 * 2


def test_the_order_keeps_folds_paired():
    """One after another is every trainer on the same fold; the baseline is the first of them."""
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


def test_in_words():
    experiment = ExperimentKey("Dataset004_Organs", "2d", "nnUNetPlans")
    assert str(Run(experiment, "T", 3)) == "Dataset004_Organs, 2d, nnUNetPlans: T, fold 3"
    assert str(Run(experiment, "T", 3, 1)) == "Dataset004_Organs, 2d, nnUNetPlans: T, fold 3, repeat 1"


def test_the_grid_of_the_box(monkeypatch):
    """Everything it names is in the box, but for the data sets."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "routings.yaml"
    grid = from_options(read_options(path), path.name)
    assert [find_trainer(name).__name__ for name in grid.trainers] == list(grid.trainers)
    assert len(list(grid.runs())) == 2 * 4 * 5
