"""A plans file as a user names it: read, or refused in one line."""

import pytest
from support.plans_file import write_plans

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.plans_file import configuration_of, read_dataset, read_plans


def test_a_configuration(tmp_path):
    path = write_plans(tmp_path)
    assert configuration_of(read_plans(path), "3d_fullres", path).patch_size == [16, 16, 16]


def test_no_such_configuration(tmp_path):
    path = write_plans(tmp_path)
    with pytest.raises(UserError, match=r"nnUNetPlans.json has no configuration '4d', but 2d, 3d_fullres$"):
        configuration_of(read_plans(path), "4d", path)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"configurations": 3}', "\x00"])
def test_no_plans_file(tmp_path, content):
    path = tmp_path / "plans.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        UserError, match=r"plans.json cannot be read as an nnU-Net plans file \(.*\): pass one"
    ) as error:
        read_plans(path)
    assert "\n" not in str(error.value)


def test_the_data_set_beside_it(tmp_path):
    plans = write_plans(tmp_path)
    assert read_dataset(plans) is None
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0}}')
    assert read_dataset(plans) == {"labels": {"background": 0}}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"labels": 3}'])
def test_no_data_set(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset.json cannot be read as nnU-Net's dataset.json \(.*\)") as error:
        read_dataset(tmp_path / "plans.json")
    assert "\n" not in str(error.value)
