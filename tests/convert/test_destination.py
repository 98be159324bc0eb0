"""The folder of a dataset, and the errors for invalid numbers, names and folders. Kills are in test_kill.py."""

import pytest

from nnunet_xattnres.convert.destination import find_target
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


def test_a_number_that_another_dataset_has(tmp_path):
    (tmp_path / "Dataset004_Other").mkdir()
    with pytest.raises(UserError, match="Dataset004_Other"):
        find_target(4, "Name", {"nnUNet_raw": str(tmp_path)})


@pytest.mark.parametrize("environment", [{}, {"nnUNet_raw": ""}, {"nnUNet_raw": "/missing"}])
def test_no_folder_of_raw_datasets(environment):
    with pytest.raises(UserError, match="nnUNet_raw"):
        find_target(5, "A", environment)
