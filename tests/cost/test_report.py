"""The table, the JSON file and the figure of measurements."""

import json

import pytest
import torch
from matplotlib import image

from nnunet_xattnres.cost import report
from nnunet_xattnres.cost.cases import TYPICAL_CASES
from nnunet_xattnres.cost.check import Comparison, TensorError
from nnunet_xattnres.cost.measure import PHASES, Measurement, MeasureOptions

OPTIONS = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=3, reference_repeats=1)


def measurement(name, factor, cuda=False):
    return Measurement(
        name, round(2e6 * factor), round(3e9 * factor), round(4e9 * factor),
        {phase: [9.0, factor, factor / 2] for phase in PHASES},
        *((round(5e9 * factor), round(6e9 * factor)) if cuda else ()),
    )  # fmt: skip


def test_table():
    header, stock, ours = report.format_results([measurement("stock", 1), measurement("XAttnRes", 1.5)]).splitlines()
    assert header.split("  ")[-1] == "inference s"
    assert "peak" not in header
    assert stock.split() == ["stock", "2.00", "M", "(1.00x)", "3.0", "(1.00x)", "4.00", "GB", "(1.00x)"] + [
        "1.000", "(1.00x)"
    ] * 4  # fmt: skip
    assert ours.split() == ["XAttnRes", "3.00", "M", "(1.50x)", "4.5", "(1.50x)", "6.00", "GB", "(1.50x)"] + [
        "1.500", "(1.50x)"
    ] * 4  # fmt: skip


def test_table_on_cuda():
    header, *_, ours = report.format_results(
        [measurement("stock", 1, True), measurement("XAttnRes", 2, True)]
    ).splitlines()
    assert header.split()[-3:] == ["peak", "allocated", "reserved"]
    assert ours.split()[-6:] == ["10.00", "GB", "(2.00x)", "12.00", "GB", "(2.00x)"]


def test_table_with_a_network_that_ran_out_of_memory():
    lines = report.format_results(
        [measurement("stock", 1), Measurement("reference", failure="out of memory")]
    ).splitlines()
    assert lines[2].split() == ["reference", "out", "of", "memory"]


def test_json(tmp_path):
    results = [measurement("stock", 1), Measurement("reference", failure="out of memory")]
    path = tmp_path / "figures.json"
    comparison = Comparison(
        "float64", [TensorError("logits 0", 1e-15, 0, 1e-8), TensorError("logits 1", 2e-15, 0, 1e-8)]
    )
    report.save_json(path, OPTIONS, [report.to_dict(TYPICAL_CASES["2d-256"], results, {"XAttnRes": [comparison]})])
    loaded = json.loads(path.read_text())
    assert loaded["about"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert loaded["about"]["threads"] == torch.get_num_threads()
    (case,) = loaded["cases"]
    assert case["case"]["patch_size"] == [256, 256]
    assert case["comparison_with_reference"] == {
        "XAttnRes": {"float64": {"name": "logits 1", "error": 2e-15, "reference_error": 0, "bound": 1e-8}}
    }
    assert case["results"][0]["seconds"]["step"] == [9.0, 1, 0.5]
    assert case["results"][1]["failure"] == "out of memory"
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_table_of_rejected_tensors():
    tensors = [
        TensorError("xattnres.1", 0.5, 0.1, 0.25),
        TensorError("logits 0", 0.1, 0.1, 0.25),
        TensorError("xattnres.2", float("nan"), 0.1, 0.3),
    ]
    _, *rows = report.format_rejected(Comparison("mixed precision", tensors)).splitlines()
    assert [row.split() for row in rows] == [
        ["xattnres.2", "nan", "3.0e-01", "1.0e-01"],
        ["xattnres.1", "5.0e-01", "2.5e-01", "1.0e-01"],
    ]


def test_scaling_figure(tmp_path):
    path = tmp_path / "scaling.png"
    points = [(n, [measurement("stock", n), Measurement("reference", failure="out of memory")]) for n in (1, 2, 4)]
    report.draw_scaling(path, {"batch size": points, "stages": points[:2]}, "a device")
    pixels = image.imread(path)
    assert min(pixels.shape[:2]) > 400
    assert pixels.std() > 0.05


@pytest.mark.parametrize("phase", PHASES)
def test_median(phase):
    assert measurement("stock", 4).median(phase) == 4
