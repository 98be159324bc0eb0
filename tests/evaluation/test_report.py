"""Means with the number of values behind them, as table, JSON and CSV."""

import csv
import io
import json
import statistics

import pytest

from nnunet_xattnres.evaluation import METRICS
from nnunet_xattnres.evaluation.report import Report

METADATA = {"protocol": "default", "unit": "mm", "tolerance": 1.0, "predictions": "p", "references": "r"}


def row(*values):
    return dict(zip(METRICS, values, strict=True))


SCORES = {
    "a": {"liver": row(0.9, 0.8, 1.0, 0.5, 0.7), "spleen": row(0.5, 0.3, 8.0, 4.0, 0.1), "none": row(*[None] * 5)},
    "b": {"liver": row(0.7, 0.6, 3.0, 1.5, 0.5), "spleen": row(0.0, 0.0, None, None, 0.0), "none": row(*[None] * 5)},
    "c": {"liver": row(0.8, 0.7, 2.0, 1.0, 0.6), "spleen": row(*[None] * 5), "none": row(*[None] * 5)},
}
REPORT = Report(SCORES, METADATA, ["d: a reference without a prediction"])


def test_means_count_the_cases_with_a_value():
    """Computed by hand: the spleen has a Dice in two cases and an HD95 in one."""
    counted = {f"{m}_n": 3 for m in METRICS}
    assert REPORT.mean("liver") == pytest.approx(row(0.8, 0.7, 2.0, 1.0, 0.6) | counted)
    counted = dict.fromkeys([f"{m}_n" for m in METRICS], 2) | {"hd95_n": 1, "assd_n": 1}
    assert REPORT.mean("spleen") == pytest.approx(row(0.25, 0.15, 8.0, 4.0, 0.05) | counted)
    assert REPORT.mean("none") == row(*[None] * 5) | {f"{m}_n": 0 for m in METRICS}


def test_the_overall_mean_is_a_mean_of_regions():
    """It is not the mean of all values: the liver with three values weighs as much as the spleen with two."""
    counted = dict.fromkeys([f"{m}_n" for m in METRICS], 2)
    expected = row((0.8 + 0.25) / 2, (0.7 + 0.15) / 2, (2 + 8) / 2, 2.5, 0.325)
    assert REPORT.overall() == pytest.approx(expected | counted)
    everything = [s["dice"] for case in SCORES.values() for s in case.values() if s["dice"] is not None]
    assert statistics.mean(everything) == pytest.approx(0.58)
    none = Report({"a": {"none": row(*[None] * 5)}}, METADATA).overall()
    assert none == row(*[None] * 5) | dict.fromkeys(counted, 0)


def test_table():
    head, liver, spleen, none, overall = REPORT.table().splitlines()
    assert head.split() == ["Dice", "%", "IoU", "%", "HD95", "mm", "ASSD", "mm", "surface", "Dice", "%"]
    assert liver.split() == ["liver", "80.00", "70.00", "2.000", "1.000", "60.00"]
    cells = "25.00 (of 2) 15.00 (of 2) 8.000 (of 1) 4.000 (of 1) 5.00 (of 2)"
    assert " ".join(spleen.split()) == f"spleen {cells}"
    assert none.split() == ["none", *["undefined"] * 5]
    assert overall.split()[:4] == ["mean", "52.50", "(of", "2)"]


def test_table_of_one_region_has_no_overall_mean():
    report = Report({"a": {"liver": SCORES["a"]["liver"]}}, METADATA | {"unit": "voxels"})
    head, liver = report.table().splitlines()
    assert "HD95 voxels" in head
    assert liver.split() == ["liver", "90.00", "80.00", "1.000", "0.500", "70.00"]


def test_extra_regions_are_not_in_the_overall_mean():
    report = Report(SCORES, METADATA, extra_regions=frozenset({"spleen", "none"}))
    assert report.overall() == pytest.approx(
        row(0.8, 0.7, 2.0, 1.0, 0.6) | dict.fromkeys([f"{m}_n" for m in METRICS], 1)
    )
    assert list(report.to_dict()["mean"]) == ["liver", "spleen", "none"]
    assert [line.split()[0] for line in report.table().splitlines()[1:]] == ["liver", "spleen", "none"]


def test_lowest_dice():
    """Undefined values are left out; equal values are in the order of the cases."""
    assert REPORT.lowest_dice() == [("b", "spleen", 0.0), ("a", "spleen", 0.5), ("b", "liver", 0.7)]
    scores = {case: {"liver": row(0.5, 0, 0, 0, 0)} for case in "zyxw"}
    assert REPORT.lowest_dice() != Report(scores, METADATA).lowest_dice() == [(case, "liver", 0.5) for case in "zyx"]
    assert Report({"c": {"spleen": SCORES["c"]["spleen"]}}, METADATA).lowest_dice() == []


def test_json():
    text = json.dumps(REPORT.to_dict(), allow_nan=False)
    content = json.loads(text)
    assert {key: content[key] for key in METADATA} == METADATA
    assert content["cases"] == SCORES
    assert content["cases"]["b"]["spleen"]["hd95"] is None
    assert '"hd95": null' in text
    assert content["mean"] == {region: REPORT.mean(region) for region in ("liver", "spleen", "none")}
    assert content["overall"] == REPORT.overall()
    assert content["problems"] == ["d: a reference without a prediction"]


def test_csv():
    """Names with a comma are quoted; undefined values are empty."""
    scores = {case: {f"{region}, all": s for region, s in regions.items()} for case, regions in SCORES.items()}
    rows = list(csv.DictReader(io.StringIO(Report(scores, METADATA).to_csv())))
    assert [(r["case"], r["region"]) for r in rows] == [(c, f"{r}, all") for c in SCORES for r in SCORES[c]]
    for r in rows:
        expected = scores[r["case"]][r["region"]]
        assert {m: float(r[m]) if r[m] else None for m in METRICS} == expected
    assert REPORT.to_csv().splitlines()[:2] == ["case,region," + ",".join(METRICS), "a,liver,0.9,0.8,1.0,0.5,0.7"]
