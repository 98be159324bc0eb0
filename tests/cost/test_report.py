"""The table, the JSON file and the figure of measurements."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from matplotlib import image

from nnunet_xattnres.cost import report
from nnunet_xattnres.cost.cases import TYPICAL_CASES
from nnunet_xattnres.cost.check import Comparison, TensorError
from nnunet_xattnres.cost.layers import LayerCall, LayerMeasurement
from nnunet_xattnres.cost.measure import PHASES, FirstStep, Measurement, MeasureOptions

OPTIONS = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=3, reference_repeats=1)


def measurement(name, factor, cuda=False):
    return Measurement(
        name, f"nnUNetTrainer{name}", round(2e6 * factor), round(3e9 * factor), round(4e9 * factor),
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


def test_table_without_a_result_of_the_stock_network():
    """Values without ratios."""
    failed, ours = Measurement("stock", failure="out of memory"), measurement("XAttnRes", 2, True)
    lines = report.format_results([failed, ours]).splitlines()
    assert lines[1].split() == ["stock", "out", "of", "memory"]
    assert lines[2].split()[:4] == ["XAttnRes", "4.00", "M", "6.0"]
    assert "x)" not in lines[2]


def test_table_of_first_steps():
    results = [
        measurement("stock", 1),
        measurement("reference", 9),
        measurement("XAttnRes", 2),
        measurement("other", 2),
    ]
    results[0].first_step = FirstStep(20.0, round(4e9), round(5e9))
    results[2].first_step = FirstStep(45.25, round(6e9), round(10e9))
    results[3].first_step = FirstStep(failure="not finished after 900 s")
    _, *rows = report.format_first_steps(results).splitlines()
    assert [row.split() for row in rows] == [
        ["stock", "20.0", "0.0", "4.00", "GB", "(1.00x)", "5.00", "GB", "(1.00x)"],
        ["XAttnRes", "45.2", "25.2", "6.00", "GB", "(1.50x)", "10.00", "GB", "(2.00x)"],
        ["other", "not", "finished", "after", "900", "s"],
    ]
    assert report.format_first_steps(results[1:2]) == ""


def layer_measurement(launches=40):
    calls = [
        LayerCall("xattnres.1", "forward", 8, (16, 16), 1, [0.001, 0.002, 0.009], 4_000_000, 10),
        LayerCall("xattnres.2", "forward", 8, (8, 8), 2, [0.002], 2_000_000, 20),
        LayerCall("xattnres.1", "backward", 8, (16, 16), 1, [0.004], 4_000_000, launches),
    ]
    return LayerMeasurement(2e9, True, calls)


def test_table_of_layers():
    _, _, *rows = report.format_layers(layer_measurement()).splitlines()
    assert [row.split() for row in rows] == [
        ["xattnres.1", "forward", "8", "16x16", "1", "2.000", "4.0", "2.000", "100.0", "%", "10"],
        ["xattnres.2", "forward", "8", "8x8", "2", "2.000", "2.0", "1.000", "50.0", "%", "20"],
        ["xattnres.1", "backward", "8", "16x16", "1", "4.000", "4.0", "2.000", "50.0", "%", "40"],
        ["all", "forward", "4.000", "6.0", "3.000", "75.0", "%", "30"],
        ["all", "backward", "4.000", "4.0", "2.000", "50.0", "%", "40"],
    ]


def test_table_of_layers_without_a_profiler():
    assert report.format_layers(layer_measurement(None)).splitlines()[-1].split()[-1] == "unknown"


def test_json_has_first_steps_and_layers():
    result = measurement("XAttnRes", 1)
    result.first_step = FirstStep(20.0)
    case = report.to_dict(TYPICAL_CASES["2d-256"], [result], {}, {"XAttnRes": layer_measurement()})
    case = json.loads(json.dumps(case))
    assert case["results"][0]["first_step"]["seconds"] == 20
    layers = case["layers"]["XAttnRes"]
    assert layers["bandwidth"] == 2e9
    assert layers["calls"][0]["seconds"] == [0.001, 0.002, 0.009]
    assert (layers["calls"][1]["layer"], layers["calls"][1]["launches"]) == ("xattnres.2", 20)


def test_json(tmp_path):
    results = [measurement("stock", 1), Measurement("reference", failure="out of memory")]
    path = tmp_path / "figures.json"
    comparison = Comparison(
        "float64", [TensorError("logits 0", 1e-15, 0, 1e-8), TensorError("logits 1", 2e-15, 0, 1e-8)]
    )
    case = report.to_dict(TYPICAL_CASES["2d-256"], results, {"XAttnRes": [comparison]})
    report.save_json(path, OPTIONS, {"cases": [case]})
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


def test_results_are_written_where_a_package_is_not_installed(tmp_path, monkeypatch):
    """Such as a copy of this project on PYTHONPATH."""

    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(report, "version", version)
    report.save_json(tmp_path / "cost.json", OPTIONS, {"cases": []})
    assert set(json.loads((tmp_path / "cost.json").read_text())["about"]["versions"].values()) == {None}
