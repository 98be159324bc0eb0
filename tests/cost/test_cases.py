"""The measured networks are those that nnU-Net plans, and plans files are read as nnU-Net reads them."""

import json
from dataclasses import replace

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from support.plans_file import plans_dict, write_plans

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunet_xattnres.cost.cases import TYPICAL_CASES, from_plans, pixel_cases, scaling_cases
from nnunet_xattnres.cost.networks import STOCK, XATTNRES, MeasuredNetwork, start_training
from nnunet_xattnres.utils.errors import UserError

OURS = MeasuredNetwork("XAttnRes", XATTNRES, "torch")


def build(case, network=STOCK):
    return start_training(network, case, torch.device("meta")).network


def count_parameters(case, network=STOCK):
    return sum(p.numel() for p in build(case, network).parameters())


def test_the_default_case_has_the_published_number_of_parameters():
    """The documentation shows these numbers."""
    case = TYPICAL_CASES["2d-256"]
    assert round(count_parameters(case) / 1e6, 1) == 33.5
    assert round(count_parameters(case, OURS) / 1e6, 1) == 40.6


@pytest.mark.parametrize("name", TYPICAL_CASES)
def test_the_small_case_keeps_stages_strides_and_kernels(name):
    case, small = TYPICAL_CASES[name], TYPICAL_CASES[name].small()
    for key in ("n_stages", "strides", "kernel_sizes"):
        assert small.arch_kwargs[key] == case.arch_kwargs[key]
    downsampling = 2 ** (case.arch_kwargs["n_stages"] - 1)
    voxels = [side // downsampling for side in small.patch_size]  # in the last stage
    assert voxels == ([2, 4] if len(case.patch_size) == 2 else [2, 2, 2])
    assert count_parameters(small, OURS) < count_parameters(case, OURS) / 30


@pytest.mark.parametrize(
    ("configuration", "network"), [("2d", XAttnResUNet), ("3d_fullres", XAttnResResidualEncoderUNet)]
)
def test_a_configuration_of_a_plans_file(tmp_path, configuration, network):
    case = from_plans(write_plans(tmp_path), configuration, num_classes=4)
    planned = plans_dict()["configurations"][configuration]
    assert list(case.patch_size) == planned["patch_size"]
    assert (case.batch_size, case.input_channels, case.num_classes) == (2, 2, 4)
    assert type(build(case, OURS)) is network
    assert build(case).decoder.seg_layers[-1].out_channels == 4


def test_the_stock_network_of_plans_with_xattnres(tmp_path):
    """As `xattnres plan` writes them, with options of the network."""
    path = write_plans(tmp_path)
    case = from_plans(path, "2d")
    plans = plans_dict()
    architecture = plans["configurations"]["2d"]["architecture"]
    architecture["network_class_name"] = "nnunet_xattnres.networks.XAttnResUNet"
    architecture["arch_kwargs"]["skip"] = False
    path.write_text(json.dumps(plans))
    planned = from_plans(path, "2d")
    assert type(build(planned)) is type(build(case)) is PlainConvUNet
    assert count_parameters(planned) == count_parameters(case)
    assert count_parameters(planned, MeasuredNetwork("any trainer", "nnUNetTrainerNoDeepSupervision")) != (
        count_parameters(case)
    )


def test_a_scaling_series_varies_one_quantity():
    for points in scaling_cases().values():
        assert [value for value, _ in points] == sorted(value for value, _ in points)
        described = [
            (c.arch_kwargs["n_stages"], c.arch_kwargs["features_per_stage"][0], c.batch_size, c.patch_size)
            for _, c in points
        ]
        varies = [len({d[i] for d in described}) > 1 for i in range(4)]
        assert sum(varies) == 1


def test_the_patch_alone_grows():
    cases = [case for _, case in pixel_cases()]
    assert [pixels for pixels, _ in pixel_cases()] == [case.patch_size[0] * case.patch_size[1] for case in cases]
    first, *others = (replace(case, name="", patch_size=(1, 1)) for case in cases)
    assert all(other == first for other in others)


def assert_rejected(path, *facts, configuration="2d"):
    with pytest.raises(UserError) as error:
        from_plans(path, configuration)
    assert "\n" not in str(error.value)
    assert all(fact in str(error.value) for fact in facts)


def test_a_file_that_does_not_exist(tmp_path):
    assert_rejected(tmp_path / "missing.json", "missing.json", "No such file")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_file_that_is_no_plans_file(tmp_path, content):
    path = tmp_path / "plans.json"
    path.write_text(content)
    assert_rejected(path, "plans.json")


def test_a_configuration_that_the_plans_do_not_have(tmp_path):
    assert_rejected(write_plans(tmp_path), "'2D'", "2d, 3d_fullres", configuration="2D")


def test_a_network_without_a_counterpart(tmp_path):
    plans = plans_dict()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.primus.Primus"
    )
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(plans))
    assert_rejected(path, "PlainConvUNet", "ResidualEncoderUNet")
