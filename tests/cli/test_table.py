"""`xattnres table` prints the same figures as text, JSON and CSV."""

import csv
import io
import json

import pytest

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.paper import published, sizes


def printed(capsys, *arguments):
    assert main(["table", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Two networks are enough."""
    names = ("U-Net", "U-Net (no skip)")
    monkeypatch.setattr(sizes, "_NETWORKS", {name: sizes._NETWORKS[name] for name in names})


def test_sizes(capsys):
    text = printed(capsys).splitlines()
    assert text[1].split() == [
        "U-Net",
        "1.0624",
        "M",
        "1.06",
        "M",
        "+0.0024",
        "M",
        "256x256",
        "2.470",
        "2.50",
        "-0.030",
        "0.000",
    ]
    assert text[2].split() == ["U-Net", "(no", "skip)", "0.9370", "M", "256x256", "1.992", "0.000"]
    assert "thop" in " ".join(text)
    document = json.loads(printed(capsys, "--json"))
    records = document["networks"]
    for remarks in (" ".join(text), " ".join(document["remarks"])):
        assert "flop_counter" in remarks
        assert "EMCAD + XAttnRes" in remarks and "1.33 M" in remarks
    assert records[0]["parameters"] == 1_062_361
    assert records[0]["parameters_difference_m"] == pytest.approx(0.002361)
    assert records[1]["paper_gmacs"] is None
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--csv"))))
    assert [{k: "" if v is None else str(v) for k, v in record.items()} for record in records] == rows


def test_networks(capsys, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.cost.counts.all_trainers", lambda: ["nnUNetTrainerPaperUNet"])
    records = json.loads(printed(capsys, "--networks", "--json"))
    assert [record["network"] for record in records] == ["stock", "PaperUNet"]
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--networks", "--csv"))))
    assert [{k: str(v) for k, v in record.items()} for record in records] == rows
    _, stock, paper, *_ = printed(capsys, "--networks").splitlines()
    assert stock.split() == ["stock", "33.47", "M", "1.00x", "14.76", "1.00x", "0.000"]
    assert paper.split()[1:4] == [f"{records[1]['parameters'] / 1e6:.2f}", "M", "0.03x"]


def test_published(capsys):
    records = json.loads(printed(capsys, "--published", "--json"))
    assert [(r["table"], r["method"], r["metric"], r["value"]) for r in records] == [
        (p.table, p.method, p.metric, p.value) for p in published()
    ]
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--published", "--csv"))))
    assert [float(row["value"]) for row in rows] == [r["value"] for r in records]
    text = printed(capsys, "--published")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("Table")] == ["1:", "2:", "3:", "4:", "5:"]
    assert ["EMCAD", "+", "XAttnRes", "(replace)", "83.45", "15.73", "92.28"] in [
        line.split()[:7] for line in text.splitlines()
    ]
    assert "voxels" in text


def test_two_forms_at_once(capsys):
    with pytest.raises(SystemExit) as error:
        main(["table", "--json", "--csv"])
    assert error.value.code == 2
