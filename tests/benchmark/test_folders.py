"""The paths of a run are nnU-Net's own, below its environment variables; datasets are found by number or name."""

import os
from pathlib import Path

import pytest
from nnunetv2.utilities.file_path_utilities import (
    get_output_folder,
    parse_dataset_trainer_plans_configuration_from_path,
)
from support.benchmark import EXPERIMENT, make_folders, run_of

from nnunet_xattnres.benchmark.folders import NnUNetFolders, find_dataset
from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.paths import PATH_VARIABLES, trainers_path


@pytest.fixture
def folders(tmp_path, monkeypatch) -> NnUNetFolders:
    """Empty folders that nnU-Net's variables name, relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    for variable in PATH_VARIABLES:
        monkeypatch.setenv(variable, variable)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return make_folders(tmp_path)


def test_folders_from_the_environment(folders):
    actual = NnUNetFolders.from_environment()
    os.chdir("/")
    assert actual == folders


@pytest.mark.parametrize("variable", PATH_VARIABLES)
@pytest.mark.parametrize("value", [None, "", "/no/such/folder", "nnUNet_raw/file", "~/nnUNet_raw"])
def test_a_variable_without_a_folder(folders, monkeypatch, variable, value):
    (folders.raw / "file").touch()
    monkeypatch.setenv(variable, value or "")
    if value is None:
        monkeypatch.delenv(variable)
    with pytest.raises(UserError, match=f"{variable}={value}" if value else variable):
        NnUNetFolders.from_environment()


@pytest.mark.parametrize("repeat", [0, 1, 12])
def test_environment(folders, tmp_path, repeat):
    results = folders.results / f"repeat_{repeat}" if repeat else folders.results
    assert folders.environment(repeat) == {
        "nnUNet_raw": str(tmp_path / "nnUNet_raw"),
        "nnUNet_preprocessed": str(tmp_path / "nnUNet_preprocessed"),
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": str(trainers_path()),
    }


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("", [trainers_path()]),
        (os.pathsep.join([" ", ""]), [trainers_path()]),
        ("/my/trainers", ["/my/trainers", trainers_path()]),
        (f"/my/trainers{os.pathsep}/others", ["/my/trainers", "/others", trainers_path()]),
        (f"{trainers_path()}{os.pathsep}/my/trainers", [trainers_path(), "/my/trainers"]),
        (f"{trainers_path()}/", None),
        (f"{trainers_path().parent}/tests/../{trainers_path().name}", None),
        (f"{trainers_path().parent}/tests/../{trainers_path().name}/", None),
    ],
)
def test_trainers_are_added_after_the_users(folders, monkeypatch, variable, expected):
    monkeypatch.setenv("nnUNet_extTrainer", variable)
    path = folders.environment()["nnUNet_extTrainer"]
    assert path.split(os.pathsep) == [str(folder) for folder in expected or [variable]]


@pytest.mark.parametrize("repeat", [0, 2])
def test_paths_are_those_of_nnunet(folders, monkeypatch, repeat):
    run = run_of(repeat=repeat, fold=3)
    monkeypatch.setenv("nnUNet_results", folders.environment(repeat)["nnUNet_results"])
    names = (EXPERIMENT.dataset, run.trainer, EXPERIMENT.plans, EXPERIMENT.configuration)
    assert folders.model(run) == Path(get_output_folder(*names))
    assert folders.fold(run) == Path(get_output_folder(*names, fold=3))
    assert parse_dataset_trainer_plans_configuration_from_path(str(folders.validation(run))) == names


def test_every_run_has_its_own_folder(folders):
    grid = Grid(("Dataset001_A", "Dataset002_B"), ("T", "U"), ("2d", "3d"), ("P", "Q"), (0, 1), 3)
    runs = list(grid.runs())
    for folder in (folders.fold, folders.validation):
        assert len({folder(run) for run in runs}) == len(runs)
    models = {(run.experiment, run.trainer, run.repeat): folders.test_predictions(run, grid.folds) for run in runs}
    assert len(set(models.values())) == len(models)
    assert folders.test_predictions(runs[0], (0, 1)) != folders.test_predictions(runs[0], (0, 1, 2))


@pytest.fixture
def datasets(folders):
    for name in ("raw/Dataset004_Organs", "preprocessed/Dataset004_Organs", "raw/Dataset040_Forty", "raw/Dataset005_A",
                 "preprocessed/Dataset005_B", "preprocessed/Dataset501_N"):  # fmt: skip
        (folders.raw.parent / f"nnUNet_{name}").mkdir()
    for name in ("Dataset004_Organs.tar", "Dataset006_Other.tar"):  # nnU-Net looks at folders only as well
        (folders.raw / name).touch()
    return folders


@pytest.mark.parametrize(
    ("name", "full"),
    [("4", "Dataset004_Organs"), ("004", "Dataset004_Organs"), ("Dataset004_Organs", "Dataset004_Organs"),
     ("40", "Dataset040_Forty"), ("501", "Dataset501_N"), ("Dataset005_A", "Dataset005_A"),
     ("Dataset005_B", "Dataset005_B")],
)  # fmt: skip
def test_datasets_by_number_or_name(datasets, name, full):
    assert find_dataset(name, datasets) == full


@pytest.mark.parametrize(
    "name", ["6", "50", "-4", "4.0", "four", "Dataset004", "Dataset004_organs", "Organs", "", "²", "*"]
)
def test_unknown_datasets(datasets, name):
    with pytest.raises(UserError) as error:
        find_dataset(name, datasets)
    existing = "Dataset004_Organs, Dataset005_A, Dataset005_B, Dataset040_Forty, Dataset501_N"
    assert all(text in str(error.value) for text in (name, str(datasets.raw), str(datasets.preprocessed), existing))


def test_no_datasets(folders):
    with pytest.raises(UserError, match="dataset 4"):
        find_dataset("4", folders)


def test_a_number_of_two_datasets(datasets):
    with pytest.raises(UserError, match=r"5.*Dataset005_A, Dataset005_B"):
        find_dataset("5", datasets)
