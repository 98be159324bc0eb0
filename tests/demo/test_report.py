"""The table and the JSON file of the demo, and the Dice that is read from nnU-Net's summary."""

import json

import pytest

from nnunet_xattnres.demo.report import Result, format_results, read_dice, save_json


@pytest.fixture
def results():
    return [
        Result("stock nnU-Net", "nnUNetTrainer_1epoch", {"grey": 0.9, "white": 0.8}, 7_766_828, 61.4, 12.0),
        Result(
            "XAttnRes", "nnUNetTrainerXAttnRes_1epoch", {"grey": 0.95, "white": float("nan")}, 8_756_844, 99.6, 20.0
        ),
    ]


def test_table(results):
    header, stock, ours = format_results(results).splitlines()
    columns = ["Dice grey", "Dice white", "Dice mean", "parameters", "train s", "predict s"]
    assert header.split() == " ".join(columns).split()
    assert stock.split() == ["stock", "nnU-Net", "90.00", "80.00", "85.00", "7.77", "M", "61", "12"]
    assert ours.split() == ["XAttnRes", "95.00", "nan", "95.00", "8.76", "M", "100", "20"]
    assert len(header) == len(stock) == len(ours)


def test_json(results, tmp_path):
    save_json(results, tmp_path / "demo.json", device="cpu")
    saved = json.loads((tmp_path / "demo.json").read_text())
    assert saved["device"] == "cpu"
    assert saved["results"][0]["mean_dice"] == pytest.approx(0.85)
    assert saved["results"][1]["dice"] == {"grey": 0.95, "white": None}


def test_dice_by_class_name(tmp_path):
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({"mean": {"1": {"Dice": 0.5, "IoU": 0.3}, "2": {"Dice": 0.25, "IoU": 0.1}}}))
    assert read_dice(summary, {"background": 0, "grey": 1, "white": 2}) == {"grey": 0.5, "white": 0.25}
