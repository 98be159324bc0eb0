"""The conventions of the two protocols: HD95 of two directions, and the scores of empty masks."""

import numpy as np
import pytest
from support.masks import percentile

from nnunet_xattnres.evaluation import METRICS, PROTOCOLS, SurfaceDistances


def of(a_to_b, b_to_a):
    return SurfaceDistances(np.array(a_to_b, float), np.array(b_to_a, float))


def test_hd95_computed_by_hand():
    """Distances 0 to 20 in one direction, and 41 in the other.

    The 95th percentile of all 22 is at rank 0.95 * 21 = 19.95, counted from 0.
    """
    distances = of(range(21), [41])
    assert PROTOCOLS["default"].hd95(distances) == 41
    assert PROTOCOLS["published"].hd95(distances) == pytest.approx(19.95)


@pytest.mark.parametrize("seed", range(4))
def test_hd95_agrees_with_the_percentiles(seed):
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
    conventions = (protocol.both_empty, protocol.only_prediction, protocol.only_reference)
    for scores, (overlap, distance) in zip(conventions, (both_empty, only_prediction, only_reference), strict=True):
        assert set(scores) == set(METRICS)
        assert {scores[m] for m in ("dice", "iou", "surface_dice")} == {overlap}
        assert {scores[m] for m in ("hd95", "assd")} == {distance}


def test_names():
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {
        "default": "default",
        "published": "published",
    }
