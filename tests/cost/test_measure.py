"""Networks are measured in turns: repeats, sizes, and networks that do not fit into the memory."""

import os
import weakref
from dataclasses import replace

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.measure import (
    PHASES,
    MeasureOptions,
    NetworkRunner,
    is_out_of_memory,
    measure,
    target_sizes,
)
from nnunet_xattnres.cost.networks import STOCK, XATTNRES, MeasuredNetwork, start_training
from nnunet_xattnres.ops import torch_backend
from nnunet_xattnres.training.losses import SubsetsLoss

OURS = MeasuredNetwork("XAttnRes", XATTNRES, "torch")
NETWORKS = [STOCK, MeasuredNetwork("reference", XATTNRES, "reference"), OURS]
OPTIONS = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=3, reference_repeats=2)


@pytest.fixture
def case(tmp_path):
    return from_plans(write_plans(tmp_path), "2d")


def test_repeats_and_sizes(case, monkeypatch):
    # as on Windows, where the size of the free memory is not known
    monkeypatch.delattr(os, "sysconf_names")
    stock, reference, ours = measure(case, NETWORKS, OPTIONS)
    assert [len(r.seconds["step"]) for r in (stock, reference, ours)] == [3, 2, 3]
    for r in (stock, reference, ours):
        assert r.failure is None
        assert r.peak_allocated is None
        for phase in PHASES:
            assert min(r.seconds[phase]) > 0
        assert all(
            s > f + b for s, f, b in zip(r.seconds["step"], r.seconds["forward"], r.seconds["backward"], strict=True)
        )
    network = start_training(STOCK, case, torch.device("meta")).network
    assert stock.parameters == sum(p.numel() for p in network.parameters())
    assert stock.parameters < ours.parameters == reference.parameters
    assert stock.flops < ours.flops < reference.flops
    assert stock.saved_bytes < ours.saved_bytes < reference.saved_bytes


def test_saved_bytes_of_stock_computed_by_hand(case):
    """Convolutions and normalisations keep their inputs, normalisations also two statistics each."""
    (stock,) = measure(case, [STOCK], OPTIONS)
    batch, floats = 2, 0
    activations = {4: 16 * 16, 8: 8 * 8, 12: 4 * 4}  # channels: pixels, of the three stages
    # encoder: 2, 2, 3 convolutions; decoder: 2 in the middle stage, 1 in the first; each keeps two feature maps
    blocks = {4: 2 + 1, 8: 2 + 2, 12: 3}
    floats += sum(2 * n * c * activations[c] for c, n in blocks.items())
    floats += 2 * 16 * 16  # the image
    floats += 2 * 8 * 64 + 2 * 4 * 256  # the skip and the upsampled feature map, concatenated
    feature_maps = 4 * batch * floats
    statistics = 4 * 2 * batch * sum(n * c for c, n in blocks.items())
    assert feature_maps <= stock.saved_bytes <= feature_maps + 2 * statistics


def test_networks_are_measured_in_turns(case):
    messages = []
    measure(case, NETWORKS, OPTIONS, messages.append)
    turns = [message.split(": ")[1] for message in messages if "/3" in message]
    assert turns == ["stock", "reference", "XAttnRes"] * 2 + ["stock", "XAttnRes"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_errors_of_memory(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_out_of_memory_is_recorded(case, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(torch_backend, "backward", fail)
    stock, reference, ours = measure(case, NETWORKS, OPTIONS)
    assert ours.failure == "out of memory"
    assert stock.failure is reference.failure is None
    assert len(stock.seconds["step"]) == 3


def test_a_network_that_ran_out_of_memory_is_freed(case, monkeypatch):
    """The other networks must not run beside the memory of one that has failed."""
    references = []
    train_step = NetworkRunner.train_step

    def fail_later(self):
        references.append(weakref.ref(self)) if self.backend == "torch" else None
        if sum(r() is self for r in references) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(references) >= 4:
            assert references[0]() is None
        return train_step(self)

    monkeypatch.setattr(NetworkRunner, "train_step", fail_later)
    ours, stock = measure(case, [OURS, STOCK], OPTIONS)
    assert ours.failure == "out of memory"
    assert len(ours.seconds["step"]) == 1
    assert len(stock.seconds["step"]) == 3


def test_steps_that_the_gradient_scaler_skips_are_no_warm_up(case):
    runner = NetworkRunner(case, STOCK, OPTIONS)
    loss = runner.trainer.loss
    runner.trainer.loss = lambda *arguments: 64 * loss(*arguments)
    runner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # the largest float32 is 2^128
    before = runner.scaler.get_scale()
    trained = []
    step = runner.train_step

    def count():
        trained.append(runner.scaler.get_scale())
        return step()

    runner.train_step = count
    runner.warm_up(2)
    skipped = len(trained) - 2
    assert skipped > 0
    assert runner.scaler.get_scale() == before / 2**skipped
    assert runner.trainer.optimizer.state  # the other steps did train


@pytest.mark.parametrize(
    ("configuration", "trainer"),
    [
        ("2d", "nnUNetTrainer"),
        ("3d_fullres", "nnUNetTrainer"),
        ("2d", "nnUNetTrainerNoDeepSupervision"),
        ("2d", "nnUNetTrainerPaperUNet"),
    ],
)
def test_targets_have_the_sizes_of_the_outputs(tmp_path, configuration, trainer):
    case = from_plans(write_plans(tmp_path), configuration)
    runner = NetworkRunner(case, MeasuredNetwork("a network", trainer), OPTIONS)
    runner._set_mode(training=True)
    with torch.no_grad():
        outputs, targets = runner.plain(runner.image), runner.target
    assert isinstance(outputs, list) == isinstance(targets, list) == (trainer == "nnUNetTrainer")
    pairs = list(zip(outputs, targets, strict=True)) if isinstance(outputs, list) else [(outputs, targets)]
    assert [output.shape[2:] for output, _ in pairs] == [target.shape[2:] for _, target in pairs]


def test_the_loss_and_the_optimiser_are_those_of_the_trainer(case):
    """EMCAD's heads have one target and its own loss; the recipe has another optimiser and loss."""
    runner = NetworkRunner(case, MeasuredNetwork("EMCAD", "nnUNetTrainerEMCAD_PaperMulticlass"), OPTIONS)
    (target,) = runner.target
    assert target.shape == (2, 1, 16, 16)
    assert type(runner.trainer.loss) is SubsetsLoss
    assert type(runner.trainer.optimizer) is torch.optim.AdamW


def test_one_class_is_a_region(case):
    runner = NetworkRunner(replace(case, num_classes=1), STOCK, OPTIONS)
    assert runner.trainer.label_manager.has_regions
    assert runner.plain(runner.image)[0].shape == (2, 1, 16, 16)
    assert all(seconds > 0 for seconds in runner.train_step().values())


@pytest.mark.parametrize("scales", [[[1.0, 1.0], [0.5, 1.0], [0.25, 0.5]], [[1.0, 1.0]]])
def test_targets_are_those_of_nnunet(scales):
    label_map = torch.zeros(1, 28, 48)
    expected = DownsampleSegForDSTransform(scales)._apply_to_segmentation(label_map)
    assert target_sizes((28, 48), scales) == [tuple(target.shape[1:]) for target in expected]
    assert target_sizes((28, 48), None) == [(28, 48)]


def test_a_trainer_that_cannot_train_the_case_is_recorded(case):
    """The others are measured: PaperBinary trains one foreground label, here are two."""
    binary = MeasuredNetwork("binary", "nnUNetTrainerXAttnRes_PaperBinary")
    stock, failed = measure(case, [STOCK, binary], OPTIONS)
    assert stock.failure is None
    assert "foreground" in failed.failure
    assert "\n" not in failed.failure


def test_reference_equations_beyond_the_memory_are_not_tried(case, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 64)
    stock, reference, ours = measure(case, NETWORKS, OPTIONS)
    assert reference.failure and not reference.seconds["step"]
    assert len(stock.seconds["step"]) == len(ours.seconds["step"]) == 3


def test_other_errors_are_raised(case, monkeypatch):
    def fail(*args):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(torch_backend, "backward", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        measure(case, NETWORKS, OPTIONS)


def test_mixed_precision(case):
    mixed_precision = MeasureOptions(torch.device("cpu"), amp=True, compile=False, repeats=1, reference_repeats=1)
    full, mixed = (measure(case, [STOCK], s)[0] for s in (OPTIONS, mixed_precision))
    assert mixed.saved_bytes < full.saved_bytes
