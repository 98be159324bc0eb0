"""The folder of a dataset, and the errors for invalid numbers, names and folders. Kills are in test_kill.py."""

import contextlib
from pathlib import Path

import pytest
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_xattnres.convert import destination
from nnunet_xattnres.convert.destination import find_target, open_working_folder
from nnunet_xattnres.utils.errors import UserError


def test_folder(tmp_path):
    assert find_target(4, "Name", {"nnUNet_raw": str(tmp_path)}).folder == tmp_path / "Dataset004_Name"


@pytest.mark.parametrize("number", [0, -1, 1000])
def test_invalid_numbers(tmp_path, number):
    with pytest.raises(UserError, match=f"--dataset-id .*{number}"):
        find_target(number, "A", {"nnUNet_raw": str(tmp_path)})


@pytest.mark.parametrize("name", ["a b", "../a", "a/b", ".hidden", "Ä", "a\n", ""])
def test_invalid_names(tmp_path, name):
    with pytest.raises(UserError) as error:
        find_target(5, name, {"nnUNet_raw": str(tmp_path)})
    assert "--name" in str(error.value) and repr(name) in str(error.value)


def test_a_name_with_another_number(tmp_path):
    with pytest.raises(UserError, match="names another number"):
        find_target(5, "Dataset006_Name", {"nnUNet_raw": str(tmp_path)})


def test_a_number_that_another_dataset_has(tmp_path):
    (tmp_path / "Dataset004_Other").mkdir()
    with pytest.raises(UserError, match="Dataset004_Other"):
        find_target(4, "Name", {"nnUNet_raw": str(tmp_path)})


def test_a_longer_number_that_nnunet_finds_as_well(tmp_path, monkeypatch):
    """nnU-Net looks for the beginning Dataset100, and refuses the number if it finds two names."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "Dataset1000_Other").mkdir()
    (tmp_path / "Dataset101_archive.zip").touch()
    assert list(find_candidate_datasets(100)) == ["Dataset1000_Other"] and not len(find_candidate_datasets(101))
    with pytest.raises(UserError, match="Dataset1000_Other"):
        find_target(100, "Name", {"nnUNet_raw": str(tmp_path)})
    assert find_target(101, "Name", {"nnUNet_raw": str(tmp_path)}).number == 101


@pytest.mark.parametrize(
    ("environment", "text"),
    [({}, "not set"), ({"nnUNet_raw": ""}, "not set"), ({"nnUNet_raw": "/missing"}, "/missing does not exist"),
     ({"nnUNet_raw": __file__}, "not a folder"), ({"nnUNet_raw": "~/raw"}, "~/raw does not exist")],
)  # fmt: skip
def test_no_folder_of_raw_datasets(environment, text):
    with pytest.raises(UserError, match=f"nnUNet_raw.*{text}.* export nnUNet_raw="):
        find_target(5, "A", environment)


def test_other_folders_that_do_not_exist(tmp_path):
    environment = {"nnUNet_raw": str(tmp_path), "nnUNet_preprocessed": "/missing", "nnUNet_results": "/missing"}
    target = find_target(5, "A", environment)
    assert target.splits == Path("/missing/Dataset005_A/splits_final.json")


@pytest.mark.parametrize("error", [None, ValueError], ids=["finished", "failed"])
def test_nothing_is_left_where_a_held_lock_cannot_be_removed(tmp_path, monkeypatch, error):
    """Windows removes no file that is open."""
    target = find_target(4, "Name", {"nnUNet_raw": str(tmp_path)})

    def remove_all_but_the_lock(folder, **options):
        for file in folder.iterdir():
            if file.name != "lock":
                file.unlink()

    monkeypatch.setattr(destination.shutil, "rmtree", remove_all_but_the_lock)
    with pytest.raises(error) if error else contextlib.nullcontext(), open_working_folder(target) as folder:
        (folder / "settings.json").touch()
        if error:
            raise error
    assert list(tmp_path.iterdir()) == []
