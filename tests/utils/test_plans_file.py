"""Plans files and the dataset.json beside them are read, or refused with an error of one line."""

import pytest
from support.plans_file import write_plans

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.plans_file import get_configuration, read_dataset_json, read_plans


def test_a_configuration(tmp_path):
    path = write_plans(tmp_path)
    assert get_configuration(read_plans(path), "3d_fullres", path).patch_size == [16, 16, 16]


def test_a_configuration_that_the_plans_do_not_have(tmp_path):
    path = write_plans(tmp_path)
    with pytest.raises(UserError, match=r"nnUNetPlans.json .*4d.*2d, 3d_fullres$"):
        get_configuration(read_plans(path), "4d", path)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"configurations": 3}', "\x00"])
def test_a_file_that_is_no_plans_file(tmp_path, content):
    path = tmp_path / "plans.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"^{path} .*plans file") as error:
        read_plans(path)
    assert "\n" not in str(error.value)


def test_the_dataset_json_beside_the_plans(tmp_path):
    plans = write_plans(tmp_path)
    assert read_dataset_json(plans) is None
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0}}')
    assert read_dataset_json(plans) == {"labels": {"background": 0}}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"labels": 3}'])
def test_a_file_that_is_no_dataset_json(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path / 'dataset.json'} ") as error:
        read_dataset_json(tmp_path / "plans.json")
    assert "\n" not in str(error.value)
