"""The XAttnRes layer: parameters, initialisation, agreement with the reference, serialisation and bad input."""

import copy
import io
import pickle

import pytest
import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from nnunet_xattnres import XAttnRes
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


def assert_agrees(layer, history, x, eps):
    out, alpha = reference(history, x, layer.projections, layer.pseudo_query, layer.norm_weight, eps)
    torch.testing.assert_close(layer(history, x), out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.attention(history, x), alpha, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 3])
def test_vectors(dim):
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


@pytest.mark.parametrize(
    ("history", "channels", "size"),
    [
        ([(4, (8, 8))], 4, (8, 8)),
        ([(4, (16, 16)), (8, (16, 16)), (8, (4, 2))], 4, (8, 8)),
        ([(4, (2, 8, 8)), (6, (2, 4, 4)), (8, (1, 2, 2))], 6, (2, 4, 4)),
    ],
)
def test_feature_map_size_is_what_training_keeps(history, channels, size):
    layer = XAttnRes([width for width, _ in history], channels, len(size))
    features = [torch.randn(2, width, *s, requires_grad=True) for width, s in history]
    x = torch.randn(2, channels, *size, requires_grad=True)
    given = {t.untyped_storage().data_ptr() for t in (*features, x, *layer.parameters())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and tensor.numel() > channels and storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(features, x)
    # the output is kept by whatever reads it
    expected = 2 * layer.compute_conv_feature_map_size([s for _, s in history], size)
    assert sum(kept.values()) + out.numel() == expected


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
def test_he_initialisation_leaves_the_vectors_alone(init):
    layer = XAttnRes([4, 6], 6, init=init)
    query, weight = layer.pseudo_query.clone(), layer.projections[0].weight.clone()
    layer.apply(InitWeights_He(1e-2))
    assert not layer.projections[0].weight.equal(weight)
    assert layer.pseudo_query.equal(query)
    assert layer.norm_weight.equal(torch.ones(6))


@pytest.mark.parametrize("dim", [2, 3])
def test_agrees_with_the_reference(dim):
    assert_agrees(randomised(dim), *features(dim), eps=1e-6)


def test_default_eps_where_it_matters():
    layer, (history, x) = randomised(), features(scale=1e-3)
    with torch.no_grad():
        for projection in layer.projections[::2]:
            projection.bias.mul_(1e-3)
    assert_agrees(layer, history, x, eps=1e-6)


def test_given_eps():
    assert_agrees(randomised(eps=0.5), *features(), eps=0.5)


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


def test_state_dict_round_trip():
    source, target = randomised(), XAttnRes(WIDTHS, CHANNELS).double()
    target.load_state_dict(source.state_dict())
    assert target(*features()).equal(source(*features()))


def test_state_dict_names():
    projections = {f"projections.{k}.{name}" for k in (0, 2) for name in ("weight", "bias")}
    assert set(randomised().state_dict()) == {"pseudo_query", "norm_weight", *projections}


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
    "dim 1": (dict(dim=1), r"2 or 3.*got 1"),
    "dim 4": (dict(dim=4), r"2 or 3.*got 4"),
    "init": (dict(init="ones"), r"zero, normal, kaiming_uniform, xavier_uniform.*got 'ones'"),
    "no history": (dict(history_channels=[]), r"history_channels is empty.*at least one"),
    "no channels": (dict(channels=0), r"positive.*got.*\[3, 5\].*0"),
    "negative channels": (dict(channels=-6), r"positive.*got.*\[3, 5\].*-6"),
    "no history channels": (dict(history_channels=[3, 0]), r"positive.*got.*\[3, 0\].*5"),
    "negative history channels": (dict(history_channels=[-3, 5]), r"positive.*got.*\[-3, 5\].*5"),
}


@pytest.mark.parametrize("arguments, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        XAttnRes(**dict(history_channels=[3, 5], channels=5) | arguments)
    assert len(str(error.value).splitlines()) == 1


BAD_TENSORS = {
    "3-D x": ([(2, 3, 8, 8), (2, 5, 4, 4)], (2, 5, 4, 4, 4), r"x must be 4-D.*got.*\(2, 5, 4, 4, 4\)"),
    "x without batch": ([(2, 3, 8, 8), (2, 5, 4, 4)], (5, 4, 4), r"x must be 4-D.*got.*\(5, 4, 4\)"),
    "channels of x": ([(2, 3, 8, 8), (2, 5, 4, 4)], (2, 7, 4, 4), r"x must have 5 channels.*got 7"),
    "history too short": ([(2, 3, 8, 8)], (2, 5, 4, 4), r"history must hold 2 features.*got 1"),
    "history too long": ([(2, 3, 8, 8), (2, 5, 4, 4), (2, 5, 2, 2)], (2, 5, 4, 4), r"hold 2 features.*got 3"),
    "width": ([(2, 3, 8, 8), (2, 6, 4, 4)], (2, 5, 4, 4), r"history\[1\].*\(2, 5, .*got \(2, 6, 4, 4\)"),
    "projected width": ([(2, 4, 8, 8), (2, 5, 4, 4)], (2, 5, 4, 4), r"history\[0\].*\(2, 3, .*got \(2, 4, 8, 8\)"),
    "batch": ([(1, 3, 8, 8), (2, 5, 4, 4)], (2, 5, 4, 4), r"history\[0\].*\(2, 3, .*got \(1, 3, 8, 8\)"),
    "axes": ([(2, 3, 8, 8), (2, 5, 4)], (2, 5, 4, 4), r"history\[1\].*\(2, 5, \*, \*\).*got \(2, 5, 4\)"),
}


@pytest.mark.parametrize("method", ["forward", "attention"])
@pytest.mark.parametrize("history, x, message", BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_bad_tensor(history, x, message, method):
    layer = XAttnRes([3, 5], 5)
    with pytest.raises(ValueError, match=message) as error:
        getattr(layer, method)([torch.zeros(shape) for shape in history], torch.zeros(x))
    assert len(str(error.value).splitlines()) == 1


def test_bad_tensor_in_3d():
    with pytest.raises(ValueError, match=r"x must be 5-D.*got.*\(2, 5, 4, 4\)"):
        XAttnRes([5], 5, dim=3)([torch.zeros(2, 5, 4, 4)], torch.zeros(2, 5, 4, 4))
