"""Parameters and operations are those of the planned network, counted by hand."""

import json
import math

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.finished import BASELINE, OTHER, Finished, write_finished
from support.label_maps import write_dataset_json
from torch import nn

from nnunet_xattnres import XAttnResUNet
from nnunet_xattnres.benchmark.report import sizes
from nnunet_xattnres.benchmark.report.sizes import Size, measure
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture(scope="module", params=[".png", ".nii.gz"])
def either(request, tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("either"), ending=request.param, folds=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("pictures"), folds=1)


@pytest.fixture
def finished(pictures, tmp_path) -> Finished:
    return pictures.copy(tmp_path / "copy")


@pytest.fixture(autouse=True)
def environment(pictures, monkeypatch):
    pictures.use(monkeypatch)


def build(finished: Finished, channels: int, heads: int, network: type | None = None) -> tuple[nn.Module, list[int]]:
    """The planned network by nnU-Net's own builder, or another class in its place; and its patch."""
    plans = PlansManager(json.loads(finished.folders.plans(finished.experiment).read_text()))
    configuration = plans.get_configuration(finished.experiment.configuration)
    name = f"{network.__module__}.{network.__name__}" if network else configuration.network_arch_class_name
    architecture = configuration.network_arch_init_kwargs, configuration.network_arch_init_kwargs_req_import
    return get_network_from_plans(
        name, *architecture, channels, heads, deep_supervision=False
    ), configuration.patch_size


def by_hand(network: nn.Module, channels: int, patch: list[int]) -> int:
    """Multiply-adds of all convolutions: those of a kernel, for every output; transposed ones for every input."""
    counted = []

    def count(module, inputs, output):
        places = inputs[0] if module.transposed else output
        counted.append(places[0, 0].numel() * math.prod(module.kernel_size) * module.in_channels * module.out_channels)

    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            assert module.groups == 1
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, channels, *patch))
    return sum(counted)


def test_the_planned_network(either):
    """One channel in; background and two labels out; without deep supervision's heads, as for prediction."""
    network, patch = build(either, 1, 3)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert measure(either.experiment, BASELINE, either.folders) == Size(parameters, by_hand(network, 1, patch))


def test_one_convolution(either, monkeypatch):
    """A formula without a network: 5 x 3^d weights at every place."""

    class Trainer(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(plans, configuration, channels, heads, deep_supervision):
            assert (channels, heads, deep_supervision) == (1, 3, False)
            conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(configuration.patch_size)]
            return conv(1, 5, 3, padding=1)

    monkeypatch.setattr(sizes, "find_trainer", lambda name: Trainer)
    dim = 2 if either.ending == ".png" else 3
    places = {2: 16 * 16, 3: 8 * 16 * 16}[dim]
    assert measure(either.experiment, "any", either.folders) == Size(5 * 3**dim + 5, 5 * 3**dim * places)


def test_xattnres_adds_its_layers(either):
    """Queries, gains and projections; of the operations, at least a product with each of its two vectors."""
    stock, patch = build(either, 1, 3)
    network, _ = build(either, 1, 3, XAttnResUNet)
    found = measure(either.experiment, OTHER, either.folders)
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    added = sum(parameter.numel() for name, parameter in network.named_parameters() if name.startswith("xattnres."))
    assert found.parameters - sum(parameter.numel() for parameter in stock.parameters()) == added > 0
    assert found.macs > by_hand(stock, 1, patch)


def test_a_patch_of_any_size(finished):
    """Nothing is computed, and no memory is taken: this one would need 2^48 bytes."""
    small = measure(finished.experiment, BASELINE, finished.folders)
    path = finished.folders.plans(finished.experiment)
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"]["patch_size"] = [2**23, 2**23]
    path.write_text(json.dumps(plans))
    large = measure(finished.experiment, BASELINE, finished.folders)
    assert large == Size(small.parameters, small.macs * (2**23 // 16) ** 2)


def test_channels_and_labels_count(finished):
    folder, ending = finished.prepared, finished.ending
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}
    write_dataset_json(folder, labels, ending, channel_names={"0": "T1", "1": "T2"}, regions_class_order=[1, 2])
    network, patch = build(finished, 2, 2)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert measure(finished.experiment, BASELINE, finished.folders) == Size(parameters, by_hand(network, 2, patch))


def test_nothing_is_printed(finished, capsys):
    """nnU-Net's search for trainers and networks does."""
    sizes.find_trainer.cache_clear()
    measure(finished.experiment, OTHER, finished.folders)
    assert capsys.readouterr() == ("", "")


class TestProblems:
    @pytest.mark.parametrize(
        "error", [RuntimeError("out of\nmemory"), ValueError("2-D only"), KeyError("x"), OSError()]
    )
    def test_a_network_that_cannot_be_built(self, finished, monkeypatch, error):
        class Trainer(nnUNetTrainer):
            @staticmethod
            def build_network_architecture(*_):
                raise error

        monkeypatch.setattr(sizes, "find_trainer", lambda name: Trainer)
        with pytest.raises(UserError, match=f"^Odd builds no network for {finished.experiment}: ") as raised:
            measure(finished.experiment, "Odd", finished.folders)
        assert "\n" not in str(raised.value)
        assert not str(raised.value).endswith(": ")

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"labels": {"background": 0, "a": 1}}'])
    def test_a_dataset_json(self, finished, content):
        path = finished.prepared / "dataset.json"
        path.write_text(content)
        with pytest.raises(UserError) as raised:
            measure(finished.experiment, BASELINE, finished.folders)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("content", ["", "{", "{}", '{"configurations": {}}'])
    def test_plans(self, finished, content):
        path = finished.folders.plans(finished.experiment)
        path.write_text(content)
        with pytest.raises(UserError, match=str(path)):
            measure(finished.experiment, BASELINE, finished.folders)
