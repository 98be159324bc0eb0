"""The XAttnRes layer: parameters, initialisation, agreement with the reference, serialisation and bad input."""

import copy
import io
import pickle

import pytest
import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from support.operator import interpreter
from torch import nn

from nnunet_xattnres import History, XAttnRes
from nnunet_xattnres.ops import BACKENDS
from nnunet_xattnres.ops.reference import xattnres as reference

SIZES = {
    2: ((4, 6), [(8, 12), (4, 6), (2, 3)]),
    3: ((3, 4, 4), [(3, 8, 8), (3, 4, 4), (2, 2, 1)]),
}
WIDTHS, CHANNELS = [3, 5, 8], 5


def randomised(dim=2, **options):
    torch.manual_seed(0)
    layer = XAttnRes(WIDTHS, CHANNELS, dim=dim, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def features(dim=2, scale=1.0):
    torch.manual_seed(1)
    size, sizes = SIZES[dim]
    history = [scale * torch.randn(2, width, *s).double() for width, s in zip(WIDTHS, sizes, strict=True)]
    return history, scale * torch.randn(2, CHANNELS, *size).double()


def assert_agrees(layer, history, x, eps, tolerance=1e-10):
    projections = [None if isinstance(p, nn.Identity) else (p.weight, p.bias) for p in layer.projections]
    out, alpha = reference(history, x, projections, layer.pseudo_query, layer.norm_weight, eps, layer.gate)
    torch.testing.assert_close(layer(history, x), out, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(layer.attention(history, x), alpha, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dim", [2, 3])
def test_pseudo_query_and_norm_weight(dim):
    layer = XAttnRes([4, 6], 6, dim=dim)
    assert isinstance(layer.pseudo_query, nn.Parameter)
    assert isinstance(layer.norm_weight, nn.Parameter)
    assert layer.pseudo_query.tolist() == [0] * 6
    assert layer.norm_weight.tolist() == [1] * 6


@pytest.mark.parametrize("dim, conv", [(2, nn.Conv2d), (3, nn.Conv3d)])
def test_projections(dim, conv):
    layer = XAttnRes([4, 6, 8], 6, dim=dim)
    assert [type(p) for p in layer.projections] == [conv, nn.Identity, conv]
    for projection, width in zip(layer.projections[::2], [4, 8], strict=True):
        assert projection.weight.shape == (6, width, *(1,) * dim)
        assert projection.bias.shape == (6,)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("widths, channels", [([6], 6), ([4], 6), ([4, 4, 6, 8, 6], 6), ([1, 2], 1)])
def test_parameter_count(widths, channels, dim):
    count = sum(p.numel() for p in XAttnRes(widths, channels, dim=dim).parameters())
    assert count == 2 * channels + sum((width + 1) * channels for width in widths if width != channels)


def test_2d_is_the_default():
    assert isinstance(XAttnRes([4], 6).projections[0], nn.Conv2d)


def test_zero_init_starts_as_the_mean():
    history, x = features()
    layer = XAttnRes(WIDTHS, CHANNELS, init="zero").double()
    torch.testing.assert_close(layer.attention(history, x), torch.full((2, 4, 4, 6), 0.25).double())


def test_normal_init():
    torch.manual_seed(0)
    query = XAttnRes([100_000], 100_000, init="normal").pseudo_query
    assert abs(query.mean()) < 2e-4
    assert query.std().item() == pytest.approx(0.01, rel=0.01)
    assert query.abs().max() > 0.035


@pytest.mark.parametrize("channels", [1, 2, 16])
@pytest.mark.parametrize("init, fans", [("kaiming_uniform", 0), ("xavier_uniform", 1)])
def test_uniform_inits(init, fans, channels):
    torch.manual_seed(0)
    drawn = torch.cat([XAttnRes([channels], channels, init=init).pseudo_query.detach() for _ in range(1000)])
    bound = (6 / (channels + fans)) ** 0.5
    assert drawn.abs().max() <= bound * (1 + 1e-6)
    assert drawn.max() > 0.98 * bound
    assert drawn.min() < -0.98 * bound


@pytest.mark.parametrize("init", ["zero", "normal", "kaiming_uniform", "xavier_uniform"])
def test_he_initialisation_does_not_change_pseudo_query_and_norm_weight(init):
    layer = XAttnRes([4, 6], 6, init=init)
    query, weight = layer.pseudo_query.clone(), layer.projections[0].weight.clone()
    layer.apply(InitWeights_He(1e-2))
    assert not layer.projections[0].weight.equal(weight)
    assert layer.pseudo_query.equal(query)
    assert layer.norm_weight.equal(torch.ones(6))


@pytest.mark.parametrize("dim", [2, 3])
def test_agrees_with_the_reference(dim):
    assert_agrees(randomised(dim), *features(dim), eps=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_with_a_gate_agrees_with_the_reference(dim):
    assert_agrees(randomised(dim, gate=True), *features(dim), eps=1e-6)


def test_a_new_layer_with_a_gate_returns_x():
    layer, (history, x) = XAttnRes(WIDTHS, CHANNELS, init="normal", gate=True).double(), features()
    assert layer.gate.shape == ()
    assert torch.equal(layer(history, x), x)
    assert torch.equal(
        layer.attention(history, x), torch.tensor([0, 0, 0, 1.0]).double().view(4, 1, 1).expand(2, 4, 4, 6)
    )
    layer.apply(InitWeights_He(1e-2))
    assert not layer.gate


def test_default_eps_with_small_features():
    layer, (history, x) = randomised(), features(scale=1e-3)
    with torch.no_grad():
        for projection in layer.projections[::2]:
            projection.bias.mul_(1e-3)
    assert_agrees(layer, history, x, eps=1e-6)


def test_eps_argument():
    assert_agrees(randomised(eps=0.5), *features(), eps=0.5)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("widths", [[2, 3], [3, 1, 1]])
@pytest.mark.parametrize("kind", [list, tuple])
def test_x_in_parts(dim, widths, kind):
    layer, (history, x) = randomised(dim), features(dim)
    parts = kind(x.split(widths, 1))
    assert_agrees(layer, history, parts, eps=1e-6)
    torch.testing.assert_close(layer(history, parts), layer(history, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.attention(history, parts), layer.attention(history, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_history_equals_a_list(dim):
    layer, (history, x) = randomised(dim), features(dim)
    assert torch.equal(layer(History(history), x), layer(history, x))
    assert torch.equal(layer.attention(History(history), x), layer.attention(history, x))


@pytest.mark.parametrize("backend", [b if b != "triton" else pytest.param(b, marks=interpreter) for b in BACKENDS])
def test_every_backend_agrees_with_the_reference(backend):
    layer, (history, x) = randomised(backend=backend), features()
    if backend == "triton":  # it has no float64
        assert_agrees(layer.float(), [h.float() for h in history], x.float(), eps=1e-6, tolerance=1e-5)
    else:
        assert_agrees(layer, history, x, eps=1e-6)


def test_backend_argument():
    assert XAttnRes([3], 3).backend is None
    assert XAttnRes([3], 3, backend="reference").backend == "reference"


@pytest.mark.parametrize("dim", [2, 3])
def test_shapes(dim):
    layer, (history, x) = randomised(dim), features(dim)
    assert layer(history, x).shape == x.shape
    assert layer.attention(history, x).shape == (2, 4, *x.shape[2:])


def test_x_is_last():
    layer = XAttnRes([3, 3], 3)
    nn.init.constant_(layer.pseudo_query, 10)
    history, x = [-torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 4, 4)], torch.ones(1, 3, 4, 4)
    assert (layer.attention(history, x)[:, -1] > 0.999).all()
    torch.testing.assert_close(layer(history, x), x)


@pytest.mark.parametrize("gate", [False, True])
def test_state_dict_round_trip(gate):
    source, target = randomised(gate=gate), XAttnRes(WIDTHS, CHANNELS, gate=gate).double()
    target.load_state_dict(source.state_dict())
    assert target(*features()).equal(source(*features()))


def test_state_dict_names():
    projections = {f"projections.{k}.{name}" for k in (0, 2) for name in ("weight", "bias")}
    assert set(randomised().state_dict()) == {"pseudo_query", "norm_weight", *projections}
    assert set(randomised(gate=True).state_dict()) == {"gate", "pseudo_query", "norm_weight", *projections}


def torch_save_and_load(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), torch_save_and_load]
)
def test_copies_agree_and_are_independent(duplicate):
    layer = randomised()
    expected = layer(*features())
    other = duplicate(layer)
    nn.init.zeros_(layer.pseudo_query)
    assert other(*features()).equal(expected)


BAD_ARGUMENTS = {
    "dim 1": (dict(dim=1), r"\bdim\b.*\b1$"),
    "dim 4": (dict(dim=4), r"\bdim\b.*\b4$"),
    "init": (dict(init="ones"), r"\binit\b.*'ones'"),
    "no history": (dict(history_channels=[]), r"history_channels.*empty"),
    "one number as history": (dict(history_channels=3), r"history_channels.*\b3$"),
    "backend": (dict(backend="cudnn"), r"\bbackend\b.*'cudnn'"),
    "empty backend": (dict(backend=""), r"\bbackend\b.*''"),
    "no channels": (dict(channels=0), r"\[3, 5\].* 0$"),
    "negative channels": (dict(channels=-6), r"\[3, 5\].* -6$"),
    "no history channels": (dict(history_channels=[3, 0]), r"\[3, 0\].* 5$"),
    "negative history channels": (dict(history_channels=[-3, 5]), r"\[-3, 5\].* 5$"),
}


@pytest.mark.parametrize("arguments, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        XAttnRes(**dict(history_channels=[3, 5], channels=5) | arguments)
    assert len(str(error.value).splitlines()) == 1


BAD_TENSORS = {
    "3-D x": ([(2, 3, 8, 8), (2, 5, 4, 4)], (2, 5, 4, 4, 4), r"\bx\b.*\b4-D.*\(2, 5, 4, 4, 4\)"),
    "x without batch": ([(2, 3, 8, 8), (2, 5, 4, 4)], (5, 4, 4), r"\bx\b.*\b4-D.*\(5, 4, 4\)"),
    "channels of x": ([(2, 3, 8, 8), (2, 5, 4, 4)], (2, 7, 4, 4), r"\bx\b.*\b5 channels.*\(2, 7, 4, 4\)"),
    "history too short": ([(2, 3, 8, 8)], (2, 5, 4, 4), r"history.*\b2\b.*\b1$"),
    "history too long": ([(2, 3, 8, 8), (2, 5, 4, 4), (2, 5, 2, 2)], (2, 5, 4, 4), r"history.*\b2\b.*\b3$"),
    "width": ([(2, 3, 8, 8), (2, 6, 4, 4)], (2, 5, 4, 4), r"history\[1\].*\(2, 5, .*\(2, 6, 4, 4\)"),
    "projected width": ([(2, 4, 8, 8), (2, 5, 4, 4)], (2, 5, 4, 4), r"history\[0\].*\(2, 3, .*\(2, 4, 8, 8\)"),
    "batch": ([(1, 3, 8, 8), (2, 5, 4, 4)], (2, 5, 4, 4), r"history\[0\].*\(2, 3, .*\(1, 3, 8, 8\)"),
    "axes": ([(2, 3, 8, 8), (2, 5, 4)], (2, 5, 4, 4), r"history\[1\].*\(2, 5, \*, \*\).*\(2, 5, 4\)"),
}


@pytest.mark.parametrize("method", ["forward", "attention"])
@pytest.mark.parametrize("history, x, message", BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_bad_tensor(history, x, message, method):
    layer = XAttnRes([3, 5], 5)
    with pytest.raises(ValueError, match=message) as error:
        getattr(layer, method)([torch.zeros(shape) for shape in history], torch.zeros(x))
    assert len(str(error.value).splitlines()) == 1


BAD_PARTS = {
    "too few channels": ([(2, 2, 4, 4), (2, 2, 4, 4)], r"\b5 channels.*\(2, 2, 4, 4\).*\(2, 2, 4, 4\)"),
    "too many channels": ([(2, 2, 4, 4), (2, 5, 4, 4)], r"\b5 channels.*\(2, 2, 4, 4\).*\(2, 5, 4, 4\)"),
    "sizes": ([(2, 2, 4, 4), (2, 3, 4, 2)], r"\(2, 2, 4, 4\).*\(2, 3, 4, 2\)"),
    "batches": ([(2, 2, 4, 4), (1, 3, 4, 4)], r"\(2, 2, 4, 4\).*\(1, 3, 4, 4\)"),
    "axes of the first": ([(2, 2, 4), (2, 3, 4, 4)], r"\b4-D.*\(2, 2, 4\)"),
    "axes of the second": ([(2, 2, 4, 4), (2, 3, 4)], r"\b4-D.*\(2, 3, 4\)"),
    "none": ([], r"\bx\b.*\bempty\b"),
}


@pytest.mark.parametrize("method", ["forward", "attention"])
@pytest.mark.parametrize("parts, message", BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_bad_parts(parts, message, method):
    layer, history = XAttnRes([3, 5], 5), [torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4)]
    with pytest.raises(ValueError, match=message) as error:
        getattr(layer, method)(history, [torch.zeros(shape) for shape in parts])
    assert len(str(error.value).splitlines()) == 1


def test_bad_tensor_in_3d():
    with pytest.raises(ValueError, match=r"\bx\b.*\b5-D.*\(2, 5, 4, 4\)"):
        XAttnRes([5], 5, dim=3)([torch.zeros(2, 5, 4, 4)], torch.zeros(2, 5, 4, 4))
