"""Counted networks, against the published figures and sums by hand."""

import pytest

from nnunet_xattnres.cost.cases import TYPICAL_CASES
from nnunet_xattnres.cost.counts import CASE, count
from nnunet_xattnres.cost.networks import STOCK, XATTNRES, MeasuredNetwork


@pytest.fixture(scope="module")
def stock():
    return count(STOCK, TYPICAL_CASES[CASE])


def test_stock_by_hand(stock):
    """3x3 convolutions, transposed 2x2 convolutions, and the head of the last stage alone."""
    widths = [32, 64, 128, 256, 512, 512, 512]
    pixels = [(256 >> s) ** 2 for s in range(7)]
    macs = sum(9 * p * c * (b + c) for p, b, c in zip(pixels, [1, *widths], widths, strict=False))
    for s in range(6):
        macs += pixels[s] * (widths[s + 1] * widths[s] + 9 * widths[s] * (2 * widths[s] + widths[s]))
    macs += pixels[0] * 32 * 3
    assert (stock.macs, stock.attention_macs) == (macs, 0)


def test_xattnres_adds_projections(stock):
    ours = count(MeasuredNetwork("XAttnRes", XATTNRES, "torch"), TYPICAL_CASES[CASE])
    assert round(ours.parameters / 1e6, 2) == 40.55
    assert 1.1 < ours.all_macs / stock.all_macs < 1.15
    assert ours.attention_macs == 0
