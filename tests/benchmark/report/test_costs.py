"""Parameters and operations agree with the planned network; time and memory with the records."""

import json
import math

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.finished import Finished
from support.label_maps import write_dataset_json
from support.results import BASELINE, OTHER, in_memory
from torch import nn

from nnunet_xattnres import XAttnResUNet
from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import costs
from nnunet_xattnres.benchmark.report.costs import NetworkSize, epoch_seconds, measure_network, peak_memory
from nnunet_xattnres.utils.errors import UserError


@pytest.fixture(params=["finished_png", "finished_nifti"])
def either(request) -> Finished:
    return request.getfixturevalue(request.param)


@pytest.fixture
def finished(finished_png, tmp_path) -> Finished:
    return finished_png.copy(tmp_path / "copy")


@pytest.fixture(autouse=True)
def environment(finished_png, monkeypatch):
    finished_png.use(monkeypatch)


def measure(finished: Finished, trainer: str = BASELINE) -> NetworkSize:
    return measure_network(finished.experiment, trainer, finished.folders)


def build(finished: Finished, channels: int, heads: int, network: type | None = None) -> tuple[nn.Module, list[int]]:
    """The planned network by nnU-Net's own builder, or another class instead; and its patch size."""
    plans = PlansManager(json.loads(finished.folders.plans(finished.experiment).read_text()))
    configuration = plans.get_configuration(finished.experiment.configuration)
    name = f"{network.__module__}.{network.__name__}" if network else configuration.network_arch_class_name
    arguments = configuration.network_arch_init_kwargs, configuration.network_arch_init_kwargs_req_import
    model = get_network_from_plans(name, *arguments, channels, heads, deep_supervision=False)
    return model, configuration.patch_size


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, channels: int, patch: list[int]) -> int:
    """Multiply-adds of the convolutions: a kernel per output position, or per input position if transposed."""
    counts = []

    def count(module, inputs, output):
        positions = inputs[0] if module.transposed else output
        kernel = math.prod(module.kernel_size) * module.in_channels * module.out_channels
        counts.append(positions[0, 0].numel() * kernel)

    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            assert module.groups == 1
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, channels, *patch))
    return sum(counts)


def test_the_planned_network_and_xattnres(either):
    """One input channel, background and two labels, no deep supervision heads.

    XAttnRes adds its parameters, and more operations than it has convolutions.
    """
    stock, patch = build(either, 1, 3)
    stock_size = measure(either)
    assert stock_size == NetworkSize(count_parameters(stock), count_macs(stock, 1, patch))
    network, _ = build(either, 1, 3, XAttnResUNet)
    size = measure(either, OTHER)
    added = sum(p.numel() for name, p in network.named_parameters() if name.startswith("xattnres."))
    assert size.parameters == count_parameters(network) == stock_size.parameters + added
    assert added > 0 and size.macs > stock_size.macs


def test_one_convolution(either, monkeypatch):
    """The convolution has 5 x 3^d weights at every position."""

    class Trainer(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(plans, configuration, channels, heads, deep_supervision):
            assert (channels, heads, deep_supervision) == (1, 3, False)
            conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(configuration.patch_size)]
            return conv(1, 5, 3, padding=1)

    monkeypatch.setattr(costs, "find_trainer", lambda name: Trainer)
    dim = 2 if either.ending == ".png" else 3
    positions = {2: 16 * 16, 3: 8 * 16 * 16}[dim]
    assert measure(either, "any") == NetworkSize(5 * 3**dim + 5, 5 * 3**dim * positions)


def test_a_huge_patch(finished):
    """Nothing is computed and no memory is used: this patch has 2^48 bytes."""
    small = measure(finished)
    path = finished.folders.plans(finished.experiment)
    plans = json.loads(path.read_text())
    plans["configurations"]["2d"]["patch_size"] = [2**23, 2**23]
    path.write_text(json.dumps(plans))
    assert measure(finished) == NetworkSize(small.parameters, small.macs * (2**23 // 16) ** 2)


def test_channels_and_labels_count(finished):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}
    options = {"channel_names": {"0": "T1", "1": "T2"}, "regions_class_order": [1, 2]}
    write_dataset_json(finished.preprocessed, labels, finished.ending, **options)
    network, patch = build(finished, 2, 2)
    assert measure(finished) == NetworkSize(count_parameters(network), count_macs(network, 2, patch))


def test_nothing_is_printed(finished, capsys):
    """nnU-Net prints while it looks for trainers and networks."""
    costs.find_trainer.cache_clear()
    measure(finished, OTHER)
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

        monkeypatch.setattr(costs, "find_trainer", lambda name: Trainer)
        with pytest.raises(UserError) as raised:
            measure(finished, "Odd")
        reason = " ".join(str(error).split()) or "OSError"
        assert "Odd" in str(raised.value) and str(finished.experiment) in str(raised.value)
        assert str(raised.value).endswith(reason)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"labels": {"background": 0, "a": 1}}'])
    def test_a_dataset_json(self, finished, content):
        (finished.preprocessed / "dataset.json").write_text(content)
        with pytest.raises(UserError) as raised:
            measure(finished)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("content", ["", "{", "{}", '{"configurations": {}}'])
    def test_plans(self, finished, content):
        path = finished.folders.plans(finished.experiment)
        path.write_text(content)
        with pytest.raises(UserError, match=str(path)):
            measure(finished)


@pytest.mark.parametrize("seconds", [[3.0], [1.0, 2.0], [5.0, 1.0, 9.0], [4.0, 1.0, 2.0, 30.0]])
def test_epoch_seconds_are_a_median(seconds):
    results = in_memory({(OTHER, 0): {}}, log=Log({n: {"seconds": s} for n, s in enumerate(seconds)}))
    assert epoch_seconds(results, OTHER) == np.median(seconds)


def test_costs_that_are_not_recorded():
    results = in_memory({(OTHER, 0): {}})
    assert epoch_seconds(results, OTHER) is peak_memory(results, OTHER) is None


def test_peak_memory_is_a_maximum():
    """It is the maximum over all attempts of all trainings, of the GPU memory if that was recorded."""
    results = in_memory({(OTHER, fold): {} for fold in range(3)})
    one, two, _ = results.trained_by(OTHER)
    one.attempts.extend([{"peak_memory_bytes": 5}, {"peak_memory_bytes": 9, "peak_gpu_memory_bytes": None}])
    assert peak_memory(results, OTHER) == 9
    two.attempts.extend([{"peak_memory_bytes": 50, "peak_gpu_memory_bytes": 7}, {"peak_gpu_memory_bytes": 8}, {}])
    assert peak_memory(results, OTHER) == 8
