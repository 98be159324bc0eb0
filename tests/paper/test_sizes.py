"""Counted sizes against the published ones, and operations against sums by hand."""

import pytest

from nnunet_xattnres.paper.sizes import REMARKS, sizes


@pytest.fixture(scope="module")
def found():
    return {size.network: size for size in sizes()}


def test_parameters(found):
    counts = {name: size.parameters for name, size in found.items()}
    assert counts["U-Net"] == 1_062_361
    assert counts["U-Net + XAttnRes (both)"] == 1_281_673
    assert counts["EMCAD"] == 26_764_411
    assert counts["EMCAD + XAttnRes (both)"] - counts["EMCAD"] == 1_001_216
    for name, layers in (("U-Net", 8), ("EMCAD", 4)):  # one gate each
        assert counts[f"{name} + XAttnRes (both, gated: ours)"] - counts[f"{name} + XAttnRes (both)"] == layers
    assert counts["EMCAD + XAttnRes (replace)"] - counts["EMCAD (no skip)"] == 1_001_216


@pytest.mark.parametrize("name", ["U-Net", "U-Net + XAttnRes (both)", "EMCAD"])
def test_they_round_to_the_printed_ones(found, name):
    size = found[name]
    assert round(size.parameters / 1e6, 2) == size.paper_parameters_m
    assert abs(size.gmacs_difference) < 0.06


def test_the_one_that_no_reading_reproduces(found):
    size = found["EMCAD + XAttnRes (both)"]
    assert size.paper_parameters_m == 28.09
    assert size.parameters_difference_m == pytest.approx(-0.3244, abs=1e-4)


def test_operations_of_the_layers(found):
    """Projections: an entry smaller than x is projected before it grows, a larger one after it has shrunk."""
    sides, widths = [64, 32, 16, 8, 8, 16, 32], [64, 128, 320, 512, 512, 320, 128]
    by_hand = 0
    for s, (x, side) in enumerate(zip((512, 320, 128, 64), (8, 16, 32, 64), strict=True)):
        entries = zip(widths[: 4 + s], sides[: 4 + s], strict=True)
        by_hand += sum(min(size, side) ** 2 * width * x for width, size in entries if width != x)
    assert found["EMCAD + XAttnRes (both)"].macs - found["EMCAD"].macs == by_hand


def test_attention_is_counted_apart(found):
    """PVTv2-B2: keys at stride 32, whatever the stage; queries x keys and weights x values."""
    depths, widths, tokens = (3, 4, 6, 3), (64, 128, 320, 512), (64**2, 32**2, 16**2, 8**2)
    by_hand = sum(2 * d * n * 8**2 * c for d, c, n in zip(depths, widths, tokens, strict=True))
    assert {s.attention_macs for n, s in found.items() if n.startswith("EMCAD")} == {by_hand}
    assert {s.attention_macs for n, s in found.items() if n.startswith("U-Net")} == {0}


def test_csap_with_projections_after_the_upsampling(found):
    """The reading of the formula, Up(A V) W, that gives 5.31: projections of stages 3 and 2 at 32 x 32 and 64 x 64."""
    size = found["CSAP"]
    assert (size.side, size.paper_gmacs) == (512, 5.5)
    # queries x keys and weights x values: 16 x 16 queries, 8 x 8 keys, whatever the stage
    assert size.attention_macs == 16**2 * 8**2 * (256 + 256 + 160 + 64)
    moved = 160**2 * (32**2 - 16**2) + 64**2 * (64**2 - 16**2)
    assert round((size.macs + size.attention_macs + moved) / 1e9, 2) == 5.31
    assert any("5.31" in remark for remark in REMARKS)
