"""The two protocols: how the directions are joined, and what empty masks count."""

import numpy as np
import pytest
from support.masks import percentile

from nnunet_xattnres.evaluation import METRICS, PROTOCOLS, SurfaceDistances


def of(a_to_b, b_to_a):
    return SurfaceDistances(np.array(a_to_b, float), np.array(b_to_a, float))


def test_hand_computed():
    """Twenty-one values of one direction, 0 to 20, and one of the other, 41: joined, the 21st of 22 is the last rank
    below the 95th percentile."""
    distances = of(range(21), [41])
    assert PROTOCOLS["default"].hd95(distances) == 41
    assert PROTOCOLS["published"].hd95(distances) == pytest.approx(19.95)


@pytest.mark.parametrize("seed", range(4))
def test_equations(seed):
    a, b = (np.random.default_rng(seed + 10 * n).exponential(size=5 + 30 * n * seed) for n in (1, 2))
    for x, y in ((a, b), (b, a)):
        default, published = PROTOCOLS["default"], PROTOCOLS["published"]
        assert default.hd95(of(x, y)) == pytest.approx(max(percentile(x, 95), percentile(y, 95)), rel=1e-12)
        assert published.hd95(of(x, y)) == pytest.approx(percentile([*x, *y], 95), rel=1e-12)


@pytest.mark.parametrize(
    ("protocol", "uses_spacing", "both_empty", "only_prediction", "only_reference"),
    [("default", True, (None, None), (0, None), (0, None)), ("published", False, (0, 0), (1, 0), (0, 0))],
)
def test_conventions(protocol, uses_spacing, both_empty, only_prediction, only_reference):
    protocol = PROTOCOLS[protocol]
    assert protocol.uses_spacing is uses_spacing
    told = (protocol.both_empty, protocol.only_prediction, protocol.only_reference)
    for scores, (overlap, distance) in zip(told, (both_empty, only_prediction, only_reference), strict=True):
        assert set(scores) == set(METRICS)
        assert {scores[m] for m in ("dice", "iou", "surface_dice")} == {overlap}
        assert {scores[m] for m in ("hd95", "assd")} == {distance}


def test_names():
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {
        "default": "default",
        "published": "published",
    }
