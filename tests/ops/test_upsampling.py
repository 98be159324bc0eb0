"""Upsampled features that are not kept for the backward pass: the same results and gradients, bit for bit."""

import pytest
import torch
from support.operator import DEVICE, FLOAT64_BACKENDS, HALF_PRECISION_BACKENDS
from torch import nn
from torch.nn.utils import parametrize

from nnunet_xattnres import XAttnRes, XAttnResStages
from nnunet_xattnres.ops.upsampling import Upsampled, features_of, run_transposed_convolution, upsample

STRIDES = [(2, 2), (1, 2), (1, 2, 2), (2, 2, 2)]


class Stage(nn.Module):
    """A layer whose x is an upsampled feature of 4 channels and, unless `skip` is False, h_0 of 3 channels."""

    def __init__(self, strides=(2, 2), skip=True, keep=False, bias=True, backend="torch"):
        super().__init__()
        torch.manual_seed(0)
        dim = len(strides)
        self.skip, self.keep = skip, keep
        conv = nn.ConvTranspose2d if dim == 2 else nn.ConvTranspose3d
        self.up = conv(5, 4, strides, strides, bias=bias)
        self.layer = XAttnRes([3, 5], 7 if skip else 4, dim, init="normal", backend=backend)
        self.sizes = [[4 * stride for stride in strides], [4] * dim]
        self.to(DEVICE)

    def images(self, dtype=torch.float32):
        shapes = [(2, channels, *size) for channels, size in zip((3, 5), self.sizes, strict=True)]
        return [torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True) for shape in shapes]

    def forward(self, *history):
        upsampled = run_transposed_convolution(self.up, history[1])
        if self.keep:
            upsampled = upsampled.feature
        x = (upsampled, history[0]) if self.skip else upsampled
        return self.layer._attend(history, x)


def step(stage, forward=None, of=slice(None), autocast=None, dtype=torch.float32):
    """Results and gradients, and the shapes that are kept for the backward pass."""
    torch.manual_seed(1)
    history, kept = stage.images(dtype), []

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(DEVICE, autocast, enabled=autocast is not None),
    ):
        outputs = (stage if forward is None else forward)(*history)[of]
    gradients = torch.autograd.grad(
        outputs, [*history, *stage.parameters()], [torch.rand_like(output) for output in outputs], allow_unused=True
    )
    return [*outputs, *gradients], kept


def check(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None) and (a is None or torch.equal(a, e))


@pytest.mark.parametrize("options", [{}, {"skip": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("strides", STRIDES)
def test_the_feature_is_not_kept_and_all_gradients_are_the_same(strides, options):
    stage, keeping = Stage(strides, **options), Stage(strides, keep=True, **options)
    (actual, kept), (expected, kept_before) = step(stage), step(keeping)
    check(actual, expected)
    shape = (2, 4, *stage.sizes[0])
    assert shape in kept_before and shape not in kept


@pytest.mark.parametrize("of", [slice(0, 1), slice(1, 2)], ids=["output alone", "attention alone"])
def test_gradients_of_one_result(of):
    check(step(Stage(skip=False), of=of)[0], step(Stage(skip=False, keep=True), of=of)[0])


@pytest.mark.parametrize("backend", FLOAT64_BACKENDS)
def test_backends_in_float64(backend):
    stages = (Stage(keep=keep, backend=backend).double() for keep in (False, True))
    actual, expected = (step(stage, dtype=torch.float64)[0] for stage in stages)
    check(actual, expected)


@pytest.mark.parametrize("backend", HALF_PRECISION_BACKENDS)
def test_under_autocast(backend):
    """The transposed convolution computes in half precision, from parameters and features in float32."""
    options = {"skip": False, "backend": backend}
    actual, expected = (step(Stage(keep=keep, **options), autocast=torch.bfloat16)[0] for keep in (False, True))
    assert actual[0].dtype == torch.bfloat16
    check(actual, expected)


def test_a_feature_that_is_promoted_is_kept():
    """Under autocast the skip feature is in float32, and the concatenation, too."""
    actual, expected = (step(Stage(keep=keep), autocast=torch.bfloat16)[0] for keep in (False, True))
    assert actual[0].dtype == torch.float32
    check(actual, expected)


def test_it_compiles_to_one_graph():
    stage = Stage()
    torch.compiler.reset()
    actual, kept = step(stage, torch.compile(stage, backend="aot_eager", fullgraph=True))
    check(actual, step(stage)[0])
    assert (2, 4, *stage.sizes[0]) not in kept


def test_frozen_parameters_and_features():
    gradients = []
    for stage in (Stage(), Stage(keep=True)):
        stage.up.requires_grad_(False)
        torch.manual_seed(1)
        stage(*(image.detach() for image in stage.images()))[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in stage.parameters()])
    check(*gradients)


def test_a_source_that_is_changed_before_the_backward_pass_is_an_error():
    stage = Stage()
    history = [image * 1 for image in stage.images()]
    output, _ = stage(*history)
    history[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_upsample_counts_as_operations_of_the_backward_op():
    counts = []
    for keep in (False, True):
        stage = Stage(keep=keep)
        output, _ = stage(*stage.images())
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            output.sum().backward()
        counts.append(counter.get_flop_counts()["Global"][torch.ops.nnunet_xattnres.backward])
    assert counts[0] - counts[1] == 2 * (2 * 4 * 4) * 5 * 4 * 2 * 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
def test_the_ops_pass_the_checks_of_torch_library():
    stage = Stage()
    skip, source = stage.images()
    feature = stage.up(source).detach().requires_grad_()
    weights = [projection.weight.detach().flatten(1).requires_grad_() for projection in stage.layer.projections]
    biases = [projection.bias for projection in stage.layer.projections]
    operands = weights, biases, [0, 1], stage.layer.pseudo_query, None, 1e-6, "torch"
    upsampling = Upsampled(feature, source, stage.up.weight, stage.up.bias).operands()
    ops = torch.ops.nnunet_xattnres
    torch.library.opcheck(ops.forward.default, ([skip, source], [feature, skip], *operands, upsampling))
    gradient = torch.rand_like(stage(skip, source)[0])
    arguments = gradient, None, [skip, source], [skip], *operands, upsampling, [True] * 9 + [False]
    arguments = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
    torch.library.opcheck(ops.backward.default, arguments)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def subclass(module):
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


def hooked(module, register):
    getattr(module, register)(lambda *arguments: None)
    return module


OTHERS = {
    "another module": lambda: nn.Upsample(scale_factor=2),
    "overlapping": lambda: nn.ConvTranspose2d(4, 4, 3, 2),
    "padding": lambda: nn.ConvTranspose2d(4, 4, 2, 2, padding=1),
    "output padding": lambda: nn.ConvTranspose2d(4, 4, 2, 2, output_padding=1),
    "groups": lambda: nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
    "dilation": lambda: nn.ConvTranspose2d(4, 4, 2, 2, dilation=2),
    "a parametrization": lambda: subclass(nn.ConvTranspose2d(4, 4, 2, 2)),
    "a hook on the input": lambda: hooked(nn.ConvTranspose2d(4, 4, 2, 2), "register_forward_pre_hook"),
    "a hook on the output": lambda: hooked(nn.ConvTranspose2d(4, 4, 2, 2), "register_forward_hook"),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_other_modules_return_their_output(make):
    module, source = make(), torch.randn(1, 4, 3, 3)
    output = run_transposed_convolution(module, source)
    assert torch.equal(output, module(source))


@pytest.mark.parametrize("strides", STRIDES)
def test_upsample_is_the_transposed_convolution(strides):
    stage = Stage(strides)
    source = stage.images()[1]
    assert torch.equal(upsample(source, stage.up.weight, stage.up.bias), stage.up(source))


def test_features():
    a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)
    upsampled = Upsampled(a, b, a, None)
    assert features_of(a) == [a] and features_of(upsampled) == [a]
    assert [feature is part for feature, part in zip(features_of((upsampled, b)), (a, b), strict=True)] == [True, True]
    # a stage without a layer
    assert XAttnResStages([3, 4], {})([], upsampled) is a
    assert torch.equal(XAttnResStages([3, 4], {})([], (upsampled, b)), torch.cat([a, b], 1))
