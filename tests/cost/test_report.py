"""Table, JSON and picture say what was measured."""

import json

import pytest
import torch
from matplotlib import image

from nnunet_xattnres.cost import report
from nnunet_xattnres.cost.cases import TYPICAL
from nnunet_xattnres.cost.measure import PHASES, Measured, MeasureOptions

SETTING = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=3, literal_repeats=1)


def measured(name, factor, cuda=False):
    return Measured(
        name, round(2e6 * factor), round(3e9 * factor), round(4e9 * factor),
        {phase: [9.0, factor, factor / 2] for phase in PHASES},
        *((round(5e9 * factor), round(6e9 * factor)) if cuda else ()),
    )  # fmt: skip


def test_table():
    header, stock, ours = report.table([measured("stock", 1), measured("XAttnRes", 1.5)]).splitlines()
    assert header.split("  ")[-1] == "inference s"
    assert "peak" not in header
    assert stock.split() == ["stock", "2.00", "M", "(1.00x)", "3.0", "(1.00x)", "4.00", "GB", "(1.00x)"] + [
        "1.000", "(1.00x)"
    ] * 4  # fmt: skip
    assert ours.split() == ["XAttnRes", "3.00", "M", "(1.50x)", "4.5", "(1.50x)", "6.00", "GB", "(1.50x)"] + [
        "1.500", "(1.50x)"
    ] * 4  # fmt: skip


def test_table_of_a_gpu():
    header, *_, ours = report.table([measured("stock", 1, True), measured("XAttnRes", 2, True)]).splitlines()
    assert header.split()[-3:] == ["peak", "allocated", "reserved"]
    assert ours.split()[-6:] == ["10.00", "GB", "(2.00x)", "12.00", "GB", "(2.00x)"]


def test_table_with_a_network_that_did_not_fit():
    lines = report.table([measured("stock", 1), Measured("literal", failure="out of memory")]).splitlines()
    assert lines[2].split() == ["literal", "out", "of", "memory"]


def test_json(tmp_path):
    results = [measured("stock", 1), Measured("literal", failure="out of memory")]
    path = tmp_path / "figures.json"
    report.save(path, SETTING, [report.to_dict(TYPICAL["2d-256"], results, {"XAttnRes": 1e-15})])
    loaded = json.loads(path.read_text())
    assert loaded["about"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert loaded["about"]["threads"] == torch.get_num_threads()
    (case,) = loaded["cases"]
    assert case["case"]["patch_size"] == [256, 256]
    assert case["largest_relative_error"] == {"XAttnRes": 1e-15}
    assert case["results"][0]["seconds"]["step"] == [9.0, 1, 0.5]
    assert case["results"][1]["failure"] == "out of memory"
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_picture(tmp_path):
    path = tmp_path / "scaling.png"
    points = [(n, [measured("stock", n), Measured("literal", failure="out of memory")]) for n in (1, 2, 4)]
    report.picture(path, {"batch size": points, "stages": points[:2]}, "a device")
    pixels = image.imread(path)
    assert min(pixels.shape[:2]) > 400
    assert pixels.std() > 0.05


@pytest.mark.parametrize("phase", PHASES)
def test_the_median_is_the_middle_one(phase):
    assert measured("stock", 4).median(phase) == 4
