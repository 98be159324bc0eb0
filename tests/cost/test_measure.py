"""Every network is run as often as asked, its sizes are counted, and one that does not fit spoils nothing."""

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.measure import PHASES, MeasureOptions, measure
from nnunet_xattnres.ops import torch_backend

VARIANTS = {"stock": None, "literal": "reference", "XAttnRes": "torch"}
SETTING = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=3, literal_repeats=2)


@pytest.fixture
def case(tmp_path):
    return from_plans(write_plans(tmp_path), "2d")


def silent(message):
    pass


def test_figures(case):
    stock, literal, ours = measure(case, VARIANTS, SETTING, silent)
    assert [len(r.seconds["step"]) for r in (stock, literal, ours)] == [3, 2, 3]
    for r in (stock, literal, ours):
        assert r.failure is None
        assert r.peak_allocated is None
        for phase in PHASES:
            assert min(r.seconds[phase]) > 0
        assert all(
            s > f + b for s, f, b in zip(r.seconds["step"], r.seconds["forward"], r.seconds["backward"], strict=True)
        )
    assert stock.parameters == sum(p.numel() for p in case.build().parameters())
    assert stock.parameters < ours.parameters == literal.parameters
    assert stock.flops < ours.flops < literal.flops
    assert stock.saved_bytes < ours.saved_bytes < literal.saved_bytes


def test_kept_bytes_of_stock_by_hand(case):
    """Convolutions keep their inputs, normalisations theirs and two statistics, activations their outputs in place."""
    (stock,) = measure(case, {"stock": None}, SETTING, silent)
    batch, floats = 2, 0
    activations = {4: 16 * 16, 8: 8 * 8, 12: 4 * 4}  # channels: pixels, of the three stages
    # encoder: 2, 2, 3 convolutions; decoder: 2 at the middle stage, 1 at the top; each gives two feature maps
    blocks = {4: 2 + 1, 8: 2 + 2, 12: 3}
    floats += sum(2 * n * c * activations[c] for c, n in blocks.items())
    floats += 2 * 16 * 16  # the image
    floats += 2 * 8 * 64 + 2 * 4 * 256  # skip and upsampled side by side
    feature_maps = 4 * batch * floats
    statistics = 4 * 2 * batch * sum(n * c for c, n in blocks.items())
    assert feature_maps <= stock.saved_bytes <= feature_maps + 2 * statistics


def test_turns_are_taken(case, monkeypatch):
    said = []
    measure(case, VARIANTS, SETTING, said.append)
    turns = [line.split(": ")[1] for line in said if "/3" in line]
    assert turns == ["stock", "literal", "XAttnRes"] * 2 + ["stock", "XAttnRes"]


def test_out_of_memory_is_a_result(case, monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(torch_backend, "backward", fail)
    stock, literal, ours = measure(case, VARIANTS, SETTING, silent)
    assert ours.failure == "out of memory"
    assert stock.failure is literal.failure is None
    assert len(stock.seconds["step"]) == 3


def test_a_literal_form_beyond_the_memory_is_not_tried(case, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 64)
    stock, literal, ours = measure(case, VARIANTS, SETTING, silent)
    assert "not tried" in literal.failure
    assert len(stock.seconds["step"]) == len(ours.seconds["step"]) == 3


def test_any_other_failure_is_not_hidden(case, monkeypatch):
    def fail(*args):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(torch_backend, "backward", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        measure(case, VARIANTS, SETTING, silent)


def test_mixed_precision(case):
    setting = MeasureOptions(torch.device("cpu"), amp=True, compile=False, repeats=1, literal_repeats=1)
    full, mixed = (measure(case, {"stock": None}, s, silent)[0] for s in (SETTING, setting))
    assert mixed.saved_bytes < full.saved_bytes
