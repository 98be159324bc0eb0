"""Where a run's files are: in nnU-Net's own folders, under its own names."""

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
    """Empty folders that nnU-Net's variables name."""
    folders = make_folders(tmp_path)
    for variable in PATH_VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return folders


def test_folders_of_the_environment(folders):
    assert NnUNetFolders.from_environment() == folders


@pytest.mark.parametrize("variable", PATH_VARIABLES)
def test_a_variable_that_names_no_folder(folders, monkeypatch, variable):
    (folders.raw / "file").touch()
    for value in ("/no/such/folder", str(folders.raw / "file")):
        monkeypatch.setenv(variable, value)
        with pytest.raises(UserError, match=f"^{variable}={value} is no folder: export {variable}=/a/folder"):
            NnUNetFolders.from_environment()
    for change in (monkeypatch.setenv, lambda name, _: monkeypatch.delenv(name)):
        change(variable, "")
        with pytest.raises(UserError, match=f"^{variable} is not set: export {variable}=/a/folder"):
            NnUNetFolders.from_environment()


def test_folders_stay_the_same_from_elsewhere(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in PATH_VARIABLES:
        monkeypatch.setenv(variable, variable)
    found = NnUNetFolders.from_environment()
    monkeypatch.chdir("/")
    assert found == folders


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
    ("mine", "expected"),
    [
        ("", [trainers_path()]),
        (os.pathsep.join([" ", ""]), [trainers_path()]),
        ("/my/trainers", ["/my/trainers", trainers_path()]),
        (f"/my/trainers{os.pathsep}/others", ["/my/trainers", "/others", trainers_path()]),
        (f"{trainers_path()}{os.pathsep}/my/trainers", [trainers_path(), "/my/trainers"]),
        (f"{trainers_path()}/", [f"{trainers_path()}/"]),
        (f"{trainers_path().parent}/tests/../{trainers_path().name}", None),
    ],
)
def test_own_trainers_come_first(folders, monkeypatch, mine, expected):
    monkeypatch.setenv("nnUNet_extTrainer", mine)
    found = folders.environment()["nnUNet_extTrainer"]
    assert found.split(os.pathsep) == [str(folder) for folder in expected or [mine]]


@pytest.mark.parametrize("repeat", [0, 2])
def test_folders_are_those_of_nnunet(folders, monkeypatch, repeat):
    run = run_of(repeat=repeat, fold=3)
    monkeypatch.setenv("nnUNet_results", folders.environment(repeat)["nnUNet_results"])
    names = (EXPERIMENT.dataset, run.trainer, EXPERIMENT.plans, EXPERIMENT.configuration)
    assert folders.model(run) == Path(get_output_folder(*names))
    assert folders.fold(run) == Path(get_output_folder(*names, fold=3))
    assert parse_dataset_trainer_plans_configuration_from_path(str(folders.validation(run))) == names


def test_every_run_has_a_folder_of_its_own(folders):
    grid = Grid(("Dataset001_A", "Dataset002_B"), ("T", "U"), ("2d", "3d"), ("P", "Q"), (0, 1), 3)
    runs = list(grid.runs())
    for folder in (folders.fold, folders.validation):
        assert len({folder(run) for run in runs}) == len(runs)
    models = {(run.experiment, run.trainer, run.repeat): folders.test_predictions(run, grid.folds) for run in runs}
    assert len(set(models.values())) == len(models)
    assert folders.test_predictions(runs[0], (0, 1)) != folders.test_predictions(runs[0], (0, 1, 2))


@pytest.fixture
def datasets(folders):
    for folder in (
        folders.raw / "Dataset004_Organs",
        folders.raw / "Dataset040_Forty",
        folders.preprocessed / "Dataset501_N",
    ):
        folder.mkdir()
    for folder in (
        folders.raw / "Dataset005_A",
        folders.preprocessed / "Dataset005_B",
        folders.preprocessed / "Dataset004_Organs",
    ):
        folder.mkdir()
    return folders


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("4", "Dataset004_Organs"),
        ("004", "Dataset004_Organs"),
        ("Dataset004_Organs", "Dataset004_Organs"),
        ("40", "Dataset040_Forty"),
        ("501", "Dataset501_N"),
        ("Dataset005_A", "Dataset005_A"),
        ("Dataset005_B", "Dataset005_B"),
    ],
)
def test_datasets_by_number_or_name(datasets, name, full):
    assert find_dataset(name, datasets) == full


@pytest.mark.parametrize(
    "name", ["6", "50", "-4", "4.0", "four", "Dataset004", "Dataset004_organs", "Organs", "", "²", "*"]
)
def test_datasets_that_are_not_there(datasets, name):
    names = "Dataset004_Organs, Dataset005_A, Dataset005_B, Dataset040_Forty, Dataset501_N"
    with pytest.raises(UserError) as error:
        find_dataset(name, datasets)
    assert str(error.value) == f"no dataset {name} in {datasets.raw} or {datasets.preprocessed}, which hold {names}"


def test_no_datasets_at_all(folders):
    with pytest.raises(UserError, match=r"^no dataset 4 in .*, which hold nothing$"):
        find_dataset("4", folders)


def test_a_number_of_two_datasets(datasets):
    told = "more than one dataset has the number 5: Dataset005_A, Dataset005_B: give the full name"
    with pytest.raises(UserError, match=f"^{told}$"):
        find_dataset("5", datasets)


def test_the_archive_of_a_dataset_is_none(datasets):
    """As it is left by a download; nnU-Net, too, looks at folders alone."""
    for name in ("Dataset004_Organs.tar", "Dataset006_Other.tar"):
        (datasets.raw / name).touch()
    assert find_dataset("4", datasets) == "Dataset004_Organs"
    with pytest.raises(UserError, match=r"^no dataset 6 in "):
        find_dataset("6", datasets)
