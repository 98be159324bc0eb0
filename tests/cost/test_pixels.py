"""Blocks are measured for growing features, and the exponents and the figure show how the cost grows."""

import pytest
import torch
from matplotlib import image

from nnunet_xattnres.cost import pixels
from nnunet_xattnres.cost.measure import PHASES, Measurement, MeasureOptions

OPTIONS = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=2, reference_repeats=1)
LINEAR = [(n, 2e-5 * n) for n in (256, 1024, 4096)]
QUADRATIC = [(n, 1e-7 * n**2) for n in (256, 1024, 4096)]


def test_blocks(monkeypatch):
    """Attention over all pixels is left out where it would take too long."""
    monkeypatch.setattr(pixels, "_MAX_PIXELS_OF_FULL_ATTENTION", 64)
    monkeypatch.setattr(pixels, "BLOCK_SIDES", (8, 16))
    windows = []
    compute = pixels._forward_and_backward
    monkeypatch.setattr(pixels, "_forward_and_backward", lambda *a: windows.append(a[:2]) or compute(*a))
    measured = pixels.measure_blocks(OPTIONS)
    assert [(m.name, m.pixels) for m in measured] == [
        (pixels.SEMA_BLOCK, 64), (pixels.FULL_ATTENTION, 64), (pixels.SEMA_BLOCK, 256)
    ]  # fmt: skip
    assert windows == [(7, 8), (8, 8), (7, 16)]
    assert all(len(m.seconds) == 2 and min(m.seconds) > 0 for m in measured)
    assert {name: len(curve) for name, curve in pixels.curves_of_blocks(measured).items()} == {
        pixels.SEMA_BLOCK: 2, pixels.FULL_ATTENTION: 1
    }  # fmt: skip


def test_curves_of_networks_leave_out_what_did_not_fit():
    def measured(seconds):
        return Measurement("USEMA", seconds={phase: [seconds, 9 * seconds, seconds] for phase in PHASES})

    points = [(64, [measured(1.0)]), (256, [measured(4.0)]), (1024, [Measurement("USEMA", failure="out of memory")])]
    curves = pixels.curves_of_networks(points)
    assert len(curves) == 2
    assert all(curve == [(64, 1.0), (256, 4.0)] for curve in curves.values())


@pytest.mark.parametrize(("curve", "expected"), [(LINEAR, 1), (QUADRATIC, 2), ([(16, 5.0), *LINEAR], 1)])
def test_exponent(curve, expected):
    assert pixels.exponent(curve) == pytest.approx(expected)


def test_table():
    _, linear, quadratic, short = pixels.format_curves(
        {"linear": LINEAR, "quadratic": QUADRATIC, "short": LINEAR[:1]}
    ).splitlines()
    assert linear.split()[-1] == "1.00"
    assert quadratic.split()[-1] == "2.00"
    assert short.split() == ["short", "0.0051"]


def test_figure(tmp_path):
    path = tmp_path / "pixels.png"
    pixels.draw_pixels(path, {"networks": {"a": LINEAR}, "blocks": {"a": LINEAR, "b": QUADRATIC}}, "a device")
    drawn = image.imread(path)
    assert min(drawn.shape[:2]) > 400
    assert drawn.std() > 0.05
