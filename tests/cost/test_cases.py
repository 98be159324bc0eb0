"""What is measured is what nnU-Net plans, and a plans file is read as nnU-Net reads it."""

import json

import pytest
from support.plans_file import plans_dict, write_plans

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunet_xattnres.cost.cases import TYPICAL, from_plans, scaling
from nnunet_xattnres.utils.errors import UserError


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_the_first_case_has_the_size_it_was_first_measured_with():
    case = TYPICAL["2d-256"]
    assert round(millions(case.build()), 1) == 33.5
    assert round(millions(case.build("torch")), 1) == 40.6


def test_backends_reach_every_layer():
    network = TYPICAL["2d-256"].small().build("reference")
    backends = [m.backend for m in network.modules() if hasattr(m, "pseudo_query")]
    assert backends == ["reference"] * 12


@pytest.mark.parametrize("name", TYPICAL)
def test_the_small_case_keeps_stages_strides_and_kernels(name):
    case, small = TYPICAL[name], TYPICAL[name].small()
    for key in ("n_stages", "strides", "kernel_sizes"):
        assert small.arch_kwargs[key] == case.arch_kwargs[key]
    assert small.patch_size == (2 ** case.arch_kwargs["n_stages"],) * len(case.patch_size)
    assert millions(small.build("torch")) < millions(TYPICAL[name].build("torch")) / 30


@pytest.mark.parametrize(
    ("configuration", "network"), [("2d", XAttnResUNet), ("3d_fullres", XAttnResResidualEncoderUNet)]
)
def test_a_configuration_of_a_plans_file(tmp_path, configuration, network):
    case = from_plans(write_plans(tmp_path), configuration, num_classes=4)
    planned = plans_dict()["configurations"][configuration]
    assert list(case.patch_size) == planned["patch_size"]
    assert (case.batch_size, case.input_channels, case.num_classes) == (2, 2, 4)
    assert type(case.build("torch")) is network
    assert case.build().decoder.seg_layers[-1].out_channels == 4


def test_scaling_changes_one_thing_at_a_time():
    for points in scaling().values():
        assert [value for value, _ in points] == sorted(value for value, _ in points)
        described = [
            (c.arch_kwargs["n_stages"], c.arch_kwargs["features_per_stage"][0], c.batch_size, c.patch_size)
            for _, c in points
        ]
        changing = [len({d[i] for d in described}) > 1 for i in range(4)]
        assert sum(changing) == 1


def refused(message, path, configuration="2d"):
    with pytest.raises(UserError, match=message) as error:
        from_plans(path, configuration)
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    refused("cannot be read as an nnU-Net plans file .*pass one like nnUNetPlans.json", tmp_path / "missing.json")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_no_plans_file(tmp_path, content):
    path = tmp_path / "plans.json"
    path.write_text(content)
    refused("cannot be read as an nnU-Net plans file", path)


def test_no_such_configuration(tmp_path):
    refused("has no configuration '2D', but 2d, 3d_fullres", write_plans(tmp_path), "2D")


def test_a_network_without_counterpart(tmp_path):
    plans = plans_dict()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.primus.Primus"
    )
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(plans))
    refused("PlainConvUNet and ResidualEncoderUNet", path)
