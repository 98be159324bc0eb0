"""The reference against Eqs. 4-8 in NumPy, one pixel at a time, and against values computed by hand."""

import math

import numpy as np
import pytest
import torch

from nnunet_xattnres.ops.reference import xattnres as reference


def pool_axis(feature, axis, n):
    m = feature.shape[axis]
    windows = [range(i * m // n, -(-(i + 1) * m // n)) for i in range(n)]
    return np.stack([feature.take(window, axis).max(axis) for window in windows], axis)


def interpolate_axis(feature, axis, n):
    m = feature.shape[axis]
    points = []
    for i in range(n):
        centre = min(max((i + 0.5) * m / n - 0.5, 0.0), m - 1.0)
        low = math.floor(centre)
        high = min(low + 1, m - 1)
        points.append((1 - centre + low) * feature.take(low, axis) + (centre - low) * feature.take(high, axis))
    return np.stack(points, axis)


def resize(feature, size):
    for axis, n in enumerate(size, start=2):
        if feature.shape[axis] > n:
            feature = pool_axis(feature, axis, n)
    for axis, n in enumerate(size, start=2):
        if feature.shape[axis] < n:
            feature = interpolate_axis(feature, axis, n)
    return feature


def equations_4_to_8(history, x, projections, query, gain, eps):
    batch, channels, *size = x.shape
    resized = [resize(h, size) for h in history]
    out = np.zeros(x.shape)
    alpha = np.zeros((batch, len(history) + 1, *size))
    for b in range(batch):
        for p in np.ndindex(*size):
            at_p = (b, slice(None), *p)
            values = []
            for h, projection in zip(resized, projections, strict=True):
                values.append(h[at_p] if projection is None else projection[0] @ h[at_p] + projection[1])
            values.append(x[at_p])
            logits = []
            for value in values:
                rms = math.sqrt(sum(v * v for v in value) / channels + eps)
                logits.append(sum(w * g * v / rms for w, g, v in zip(query, gain, value, strict=True)))
            weights = [math.exp(logit - max(logits)) for logit in logits]
            for n, (weight, value) in enumerate(zip(weights, values, strict=True)):
                alpha[(b, n, *p)] = weight / sum(weights)
                out[at_p] += weight / sum(weights) * value
    return out, alpha


def as_convolution(projection, dim):
    """The weight (C, C_k, 1, ...) and the bias of a 1x1 convolution."""
    if projection is None:
        return None
    weight, bias = map(torch.from_numpy, projection)
    return weight.view(*weight.shape, *(1,) * dim), bias


def draw(channels, size, entries, batch=2, scale=1.0):
    rng = np.random.default_rng(0)
    history = [scale * rng.standard_normal((batch, width, *shape)) for width, shape in entries]
    x = scale * rng.standard_normal((batch, channels, *size))
    projections = [
        None if width == channels else (rng.standard_normal((channels, width)), scale * rng.standard_normal(channels))
        for width, _ in entries
    ]
    return history, x, projections, rng.standard_normal(channels), rng.uniform(0.5, 1.5, channels)


def run(history, x, projections, query, gain, *eps, widths=None):
    """The reference on arrays; `widths` splits x into parts."""
    projections = [as_convolution(p, x.ndim - 2) for p in projections]
    history, (x, query, gain) = map(torch.from_numpy, history), map(torch.from_numpy, (x, query, gain))
    out, alpha = reference(list(history), x.split(widths, 1) if widths else x, projections, query, gain, *eps)
    return out.numpy(), alpha.numpy()


def assert_equal(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


CASES = {
    "history of one, equal size": (4, (3, 4), [(4, (3, 4))]),
    "equal size, projected": (4, (3, 4), [(6, (3, 4))]),
    "larger": (4, (3, 4), [(2, (6, 8))]),
    "smaller": (4, (6, 8), [(8, (3, 4))]),
    "larger on one axis, smaller on the other": (4, (4, 6), [(3, (8, 3)), (4, (2, 12))]),
    "mixed sizes": (4, (4, 6), [(2, (8, 12)), (4, (4, 6)), (8, (2, 3)), (4, (1, 2))]),
    "odd sizes": (3, (5, 7), [(2, (11, 13)), (3, (3, 3)), (5, (9, 1))]),
    "non-integer ratios": (2, (5, 7), [(3, (8, 10)), (2, (3, 4)), (2, (7, 5))]),
    "one-voxel sources": (3, (4, 5), [(3, (1, 1)), (2, (1, 1))]),
    "one-voxel target": (3, (1, 1), [(2, (4, 5)), (3, (1, 1))]),
    "C = 1": (1, (3, 4), [(1, (3, 4)), (2, (6, 8)), (1, (2, 2))]),
    "C = 13": (13, (3, 4), [(5, (6, 8)), (13, (2, 2))]),
    "3-D": (4, (4, 2, 4), [(2, (8, 4, 8)), (4, (4, 2, 4)), (6, (2, 1, 2))]),
    "anisotropic 3-D": (3, (3, 6, 5), [(2, (3, 12, 10)), (3, (3, 3, 3)), (4, (5, 3, 2)), (3, (1, 1, 1))]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equations(case):
    inputs = draw(*case)
    assert_equal(run(*inputs), equations_4_to_8(*inputs, eps=1e-6))


def test_batch_of_one():
    inputs = draw(3, (4, 3), [(2, (8, 6)), (3, (2, 2))], batch=1)
    assert_equal(run(*inputs), equations_4_to_8(*inputs, eps=1e-6))


def test_default_eps_with_small_features():
    inputs = draw(3, (4, 3), [(2, (8, 6)), (3, (2, 2))], scale=1e-3)
    assert_equal(run(*inputs), equations_4_to_8(*inputs, eps=1e-6))


def test_eps_argument():
    inputs = draw(3, (4, 3), [(2, (8, 6)), (3, (2, 2))])
    assert_equal(run(*inputs, 0.5), equations_4_to_8(*inputs, eps=0.5))


@pytest.mark.parametrize("name", ["mixed sizes", "3-D"])
@pytest.mark.parametrize("widths", [[4], [1, 3], [2, 1, 1]])
def test_x_in_parts(name, widths):
    inputs = draw(*CASES[name])
    assert_equal(run(*inputs, widths=widths), equations_4_to_8(*inputs, eps=1e-6))


def test_by_hand():
    # max(2, -9) = 2 -> V_1 = (1, 3) * 2 + (-1, 1) = (1, 7) and V_2 = x = (-5, 5); both have RMS 5
    history = [np.array([2.0, -9.0]).reshape(1, 1, 1, 2)]
    x = np.array([-5.0, 5.0]).reshape(1, 2, 1, 1)
    projection = np.array([[1.0], [3.0]]), np.array([-1.0, 1.0])
    # keys (0.2, 2.8) and (-1, 2): l_1 - l_2 = 2 w = log 3
    query, gain = np.full(2, math.log(3) / 2), np.array([1.0, 2.0])
    out, alpha = run(history, x, [projection], query, gain, 0.0)
    np.testing.assert_allclose(alpha.ravel(), [0.75, 0.25], rtol=1e-14)
    np.testing.assert_allclose(out.ravel(), [-0.5, 6.5], rtol=1e-14)


@pytest.mark.parametrize("name", ["mixed sizes", "anisotropic 3-D"])
def test_alpha_sums_to_one(name):
    _, alpha = run(*draw(*CASES[name]))
    np.testing.assert_allclose(alpha.sum(1), 1, rtol=1e-14)


def test_large_logits_stay_finite():
    history, x, projections, query, gain = draw(*CASES["mixed sizes"])
    out, alpha = run(history, x, projections, 1e4 * query, gain)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(alpha.sum(1), 1, rtol=1e-14)


def test_zero_query_is_the_mean_of_the_values():
    history, x, projections, query, gain = draw(4, (3, 5), [(4, (3, 5)), (4, (3, 5))])
    out, alpha = run(history, x, projections, 0 * query, gain)
    np.testing.assert_allclose(alpha, 1 / 3, rtol=1e-14)
    np.testing.assert_allclose(out, (history[0] + history[1] + x) / 3, atol=1e-14)


def test_half_precision_computes_in_float32():
    channels = 512
    h, x = torch.full((1, channels, 1, 1), 300.0).half(), torch.full((1, channels, 1, 1), -200.0).half()
    query = torch.full((channels,), math.log(3) / (2 * channels))
    out, alpha = reference([h], x, [None], query, torch.ones(channels))
    assert (out.dtype, alpha.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(alpha.flatten(), torch.tensor([0.75, 0.25]))
    assert (out == 175).all()


@pytest.mark.parametrize("size, shapes", [((2, 3), [(4, 2), (1, 2)]), ((2, 1, 2), [(1, 2, 3), (2, 1, 1)])])
def test_gradcheck(size, shapes):
    history, x, projections, query, gain = draw(2, size, list(zip((3, 2), shapes, strict=True)), batch=1)
    weight, bias = as_convolution(projections[0], len(size))
    inputs = [t.requires_grad_() for t in (*map(torch.from_numpy, (*history, x, query, gain)), weight, bias)]

    def operator(h_1, h_2, x, query, gain, weight, bias):
        return reference([h_1, h_2], x, [(weight, bias), None], query, gain)

    assert torch.autograd.gradcheck(operator, inputs)
