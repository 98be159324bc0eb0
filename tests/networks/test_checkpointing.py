"""Activation checkpointing: the same results, gradients and running statistics, with less that is kept for backward."""

import contextlib
from unittest.mock import Mock

import pytest
import torch
from support import csap, emcad, plans
from torch import nn

from nnunet_xattnres import PaperUNet
from nnunet_xattnres.networks.checkpointing import CHECKPOINT_VARIABLE, run_stage
from nnunet_xattnres.networks.connections import Connections
from nnunet_xattnres.networks.csap_planned import CSAP_PLANNED_UNETS
from nnunet_xattnres.networks.usema import USEMA_UNETS
from nnunet_xattnres.ops import custom_op


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)


def build(name, **options):
    """A network in training mode with random pseudo-queries, and an image; the same weights in every call."""
    torch.manual_seed(0)
    if name == "EMCAD":
        with emcad.small_encoder():
            network, image = emcad.build(2, 2, **options).train(), torch.randn(2, 2, 64, 64)
    elif name == "PaperUNet":
        network, image = PaperUNet(2, 3, **options), torch.randn(2, 2, 32, 32)
    elif name == "CSAP":
        with csap.small_encoder():
            network, image = csap.build(2, 2, **options).train(), torch.randn(2, 2, 64, 64)
    elif name.startswith("CSAP"):
        kind = name.removeprefix("CSAP ")
        network = plans.build(kind, CSAP_PLANNED_UNETS, **options)
        image = torch.randn(2, 2, *(16,) * plans.PLANS[kind][1])
    else:
        network, image = plans.build(name, **options), torch.randn(2, 2, *(16,) * plans.PLANS[name][1])
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith("pseudo_query"):
            nn.init.normal_(parameter)
    return network, image


def step(network, image, forward=None):
    """Logits, gradients and buffers after a training step, and the bytes that its forward pass keeps for backward."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    network.zero_grad()
    torch.manual_seed(1)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = (network if forward is None else forward)(image)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(output.float().square().mean() for output in outputs).backward()
    results = {f"logits {i}": output.detach() for i, output in enumerate(outputs)}
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    results |= {f"gradient of {name}": gradient for name, gradient in gradients.items() if gradient is not None}
    results |= {name: buffer.clone() for name, buffer in network.named_buffers()}
    return results, sum(size for size, _ in kept.values())


def check_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), f"{name} differs"


DROPOUT = {"dropout_op": "torch.nn.Dropout2d", "dropout_op_kwargs": {"p": 0.5}}
BATCH_NORM = {"norm_op": "torch.nn.BatchNorm2d"}
VARIANTS = {
    **{name: (name, {}) for name in (*plans.PLANS, "PaperUNet", "EMCAD", "CSAP", "CSAP plain 2d")},
    "without deep supervision": ("plain 2d", {"deep_supervision": False}),
    "without skips": ("plain 2d", {"skip": False, "encoder": False}),
    "upsampled": ("plain 2d", {"decoder_input": "upsampled"}),
    "without layers": ("plain 2d", {"encoder": False, "decoder": False}),
    "with a gate": ("plain 2d", {"gate": True}),
    "USEMA": ("resenc 3d", {"classes": USEMA_UNETS}),
    "with dropout": ("plain 2d", DROPOUT),
    "with batch normalisation": ("resenc 2d", BATCH_NORM),
}


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS.keys())
def test_results_are_the_same_bit_for_bit(name, options):
    expected, kept = step(*build(name, **options))
    network, image = build(name, checkpoint=True, **options)
    actual, kept_with_checkpoints = step(network, image)
    check_same(actual, expected)
    assert kept_with_checkpoints < 0.8 * kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_under_autocast(dtype):
    results = []
    for checkpoint in (False, True):
        with torch.autocast("cpu", dtype):
            results.append(step(*build("resenc 2d", checkpoint=checkpoint)))
    (expected, kept), (actual, kept_with_checkpoints) = results
    check_same(actual, expected)
    assert kept_with_checkpoints < kept


@pytest.mark.parametrize("name", ["plain 2d", "PaperUNet"])
def test_it_compiles_to_one_graph(name):
    torch.compiler.reset()
    expected, kept = step(*build(name))
    network, image = build(name, checkpoint=True)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    actual, kept_with_checkpoints = step(network, image, compiled)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-4, msg=f"{name} differs")
    assert kept_with_checkpoints < kept


@pytest.mark.parametrize("name", ["plain 2d", "PaperUNet", "EMCAD"])
def test_the_state_dict_is_the_same(name):
    (network, _), (checkpointed, _) = build(name), build(name, checkpoint=True)
    assert list(network.state_dict()) == list(checkpointed.state_dict())


@pytest.mark.parametrize(
    ("training", "gradients", "calls"), [(True, True, 2), (True, False, 1), (False, True, 1), (False, False, 1)]
)
def test_stages_run_again_in_training_only(training, gradients, calls):
    called = []
    stage = nn.Conv2d(2, 2, 3).train(training)

    def run(x):
        called.append(x)
        return stage(stage(x))

    with contextlib.nullcontext() if gradients else torch.no_grad():
        output = run_stage(run, torch.randn(1, 2, 8, 8), modules=[stage], checkpointed=True)
    if gradients:
        output.sum().backward()
    assert len(called) == calls


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("true", True), ("T", True), ("0", False), ("False", False), ("f", False), ("", False)],
)
def test_the_variable(monkeypatch, value, expected):
    monkeypatch.setenv(CHECKPOINT_VARIABLE, value)
    assert build("plain 2d")[0].checkpoint is expected
    # an argument takes precedence
    assert build("plain 2d", checkpoint=not expected)[0].checkpoint is not expected


def test_an_unknown_value_of_the_variable(monkeypatch):
    monkeypatch.setenv(CHECKPOINT_VARIABLE, "decoder")
    assert not Connections(checkpoint=False).uses_checkpoints()
    with pytest.raises(ValueError, match=rf"^{CHECKPOINT_VARIABLE} must be 1.*'decoder'$"):
        build("plain 2d")


@pytest.mark.parametrize(("checkpoint", "calls"), [(False, 2), (True, 1)])
def test_a_stage_that_runs_again_is_not_upsampled_a_third_time(monkeypatch, checkpoint, calls):
    """The layers of the other decoder stages compute the upsampled feature again in their backward pass."""
    upsample = Mock(wraps=custom_op.upsample)
    monkeypatch.setattr(custom_op, "upsample", upsample)
    step(*build("plain 2d", checkpoint=checkpoint))
    assert upsample.call_count == calls
