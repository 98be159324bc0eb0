"""`xattnres cost` from end to end on small networks, and what it refuses."""

import json
import re

import pytest
from support.plans_file import write_plans

from nnunet_xattnres.cli import cost
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.cost.cases import TYPICAL
from nnunet_xattnres.ops import custom_op, torch_backend


@pytest.fixture
def plans(tmp_path):
    return str(write_plans(tmp_path))


def test_table_and_json(plans, tmp_path, capsys):
    out = tmp_path / "figures.json"
    arguments = ["--plans", plans, "-c", "2d", "3d_fullres", "--repeats", "1", "--batch-size", "1", "--out", str(out)]
    assert main(["cost", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "Dataset999_Test 2d: patch 16x16, batch 1" in printed
    assert "Dataset999_Test 3d_fullres: patch 16x16x16, batch 1" in printed
    cases = json.loads(out.read_text())["cases"]
    assert [[r["name"] for r in case["results"]] for case in cases] == [["stock", "literal", "XAttnRes"]] * 2
    for case in cases:
        assert 0 < case["largest_relative_error"]["XAttnRes, float64"] < 1e-8
        assert 0 < case["largest_relative_error"]["XAttnRes, float32"] < 1e-3
        assert all(len(r["seconds"]["step"]) == 1 for r in case["results"])


def test_two_backends_without_the_literal_form(plans, capsys):
    assert main(["cost", "--plans", plans, "--repeats", "1", "--no-literal", "--backend", "auto", "torch"]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "(1" in line]
    assert rows == ["stock", "XAttnRes", "XAttnRes torch"]


def test_nothing_is_timed_on_a_wrong_result(plans, tmp_path, capsys, monkeypatch):
    exact = torch_backend.forward

    def wrong(*args):
        out, alpha = exact(*args)
        return out * 1.001, alpha

    monkeypatch.setattr(torch_backend, "forward", wrong)
    out = tmp_path / "figures.json"
    assert main(["cost", "--plans", plans, "--out", str(out)]) == 1
    output = capsys.readouterr()
    assert "XAttnRes differs in float64 from the literal equations" in output.err
    assert "nothing was timed" in output.err
    assert "stock" not in output.out
    assert not out.exists()


@pytest.mark.parametrize("reason", ["_failed", "_refused"])
def test_figures_of_another_backend_are_not_kept(plans, tmp_path, capsys, monkeypatch, reason):
    monkeypatch.setattr(custom_op, reason, {"no registers left"})
    out = tmp_path / "figures.json"
    assert main(["cost", "--plans", plans, "--repeats", "1", "--no-literal", "--out", str(out)]) == 1
    assert "PyTorch's and not Triton's" in capsys.readouterr().err
    assert not out.exists()


def test_the_command_knows_every_typical_case():
    assert set(cost._CASES) == set(TYPICAL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--batch-size", "-2"], "--batch-size must be at least 1, got -2"),
        (["--out", "nowhere/figures.json"], "nowhere is no folder: create it first, or put figures.json elsewhere"),
        (["--scaling", "nowhere/scaling.png"], "nowhere is no folder"),
        (["--device", "tpu"], "--device tpu: PyTorch .* finds no such device here"),
        (["--plans", "missing.json"], "missing.json cannot be read as an nnU-Net plans file"),
    ],
)
def test_refusals(capsys, arguments, message):
    assert main(["cost", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1

    assert re.search(message, error)
