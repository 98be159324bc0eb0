"""`xattnres cost` on small networks, and the arguments that it rejects."""

import json

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cli import cost
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.cost.cases import TYPICAL_CASES, pixel_cases
from nnunet_xattnres.cost.measure import FirstStep, MeasureOptions
from nnunet_xattnres.ops import custom_op, dispatch, torch_backend
from nnunet_xattnres.training.names import NETWORKS, parse


@pytest.fixture
def plans(tmp_path):
    return str(write_plans(tmp_path))


def test_table_and_json(plans, tmp_path, capsys):
    out = tmp_path / "figures.json"
    arguments = ["--plans", plans, "-c", "2d", "3d_fullres", "--repeats", "1", "--batch-size", "1", "--out", str(out)]
    assert main(["cost", *arguments]) == 0
    printed = capsys.readouterr().out
    titles = [line for line in printed.splitlines() if line.startswith("Dataset999_Test")]
    assert (
        ["2d" in titles[0], "16x16," in titles[0]]
        == ["3d_fullres" in titles[1], "16x16x16," in titles[1]]
        == [True] * 2
    )
    cases = json.loads(out.read_text())["cases"]
    assert [[r["name"] for r in case["results"]] for case in cases] == [["stock", "reference", "XAttnRes"]] * 2
    for case in cases:
        errors = case["comparison_with_reference"]["XAttnRes"]
        assert 0 < errors["float64"]["error"] < 1e-8
        assert 0 < errors["float32"]["error"] < 1e-3
        assert all(len(r["seconds"]["step"]) == 1 for r in case["results"])


def test_two_backends_without_the_reference_equations(plans, capsys):
    assert main(["cost", "--plans", plans, "--repeats", "1", "--no-reference", "--backend", "auto", "torch"]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "(1" in line]
    assert rows == ["stock", "XAttnRes", "XAttnRes torch"]


def measured(arguments, tmp_path):
    """The exit code, and the cases that --out writes."""
    out = tmp_path / "figures.json"
    code = main(["cost", *arguments, "--repeats", "1", "--out", str(out)])
    return code, json.loads(out.read_text())["cases"] if out.exists() else None


def test_trainers(plans, tmp_path, capsys):
    """Any that nnU-Net finds; in the 3-D configuration the 2-D one is left out."""
    trainers = ["nnUNetTrainerPaperUNet", "nnUNetTrainer", "nnUNetTrainerNoDeepSupervision"]
    code, cases = measured(["--plans", plans, "-c", "2d", "3d_fullres", "--trainer", *trainers], tmp_path)
    assert code == 0
    two, three = ({r["name"]: r for r in case["results"]} for case in cases)
    assert list(two) == ["stock", "PaperUNet", "NoDeepSupervision"]
    assert list(three) == ["stock", "NoDeepSupervision"]
    assert [r["trainer"] for r in two.values()] == [trainers[1], trainers[0], trainers[2]]
    assert two["stock"]["parameters"] == two["NoDeepSupervision"]["parameters"]
    assert two["PaperUNet"]["parameters"] > 1e6 > two["stock"]["parameters"]
    assert "left_out" not in cases[0]
    assert list(cases[1]["left_out"]) == ["nnUNetTrainerPaperUNet"]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert "PaperUNet" in line and "2-D" in line


def test_a_trainer_that_is_measured_nowhere(plans, tmp_path):
    """Stock is measured."""
    code, cases = measured(["--plans", plans, "-c", "3d_fullres", "--trainer", "nnUNetTrainerPaperUNet"], tmp_path)
    assert code == 1
    assert [r["name"] for r in cases[0]["results"]] == ["stock"]


def test_a_trainer_that_does_not_exist(plans, tmp_path, capsys):
    """The others are measured; if there are none, nothing is."""
    arguments = ["--plans", plans, "--trainer", "nnUNetTrainerXAtnRes"]
    assert measured(arguments, tmp_path) == (2, None)
    code, cases = measured([*arguments, "nnUNetTrainerPaperUNet"], tmp_path)
    assert code == 1
    assert [r["name"] for r in cases[0]["results"]] == ["stock", "PaperUNet"]
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "did you mean nnUNetTrainerXAttnRes?" in first


@pytest.mark.slow
def test_all_networks(plans, tmp_path, monkeypatch):
    """Every network without XAttnRes and with it; those with XAttnRes once for every backend."""
    code, (case,) = measured(
        ["--plans", plans, "-c", "3d_fullres", "--all-networks", "--backend", "auto", "torch"], tmp_path
    )
    assert code == 0
    names = {result["name"] for result in case["results"]} | set(case["left_out"])
    assert {"stock", "XAttnRes", "XAttnRes torch", "nnUNetTrainerEMCAD", "nnUNetTrainerEMCADXAttnRes"} <= names
    assert {"XAttnRes", "XAttnRes torch"} <= set(case["comparison_with_reference"])
    assert {NETWORKS[parse(name).network].dims for name in case["left_out"]} == {(2,)}


def test_pixels(tmp_path, monkeypatch, capsys):
    """Networks for growing patches and a SEMA block for growing features, in a picture and in JSON."""
    monkeypatch.setattr("nnunet_xattnres.cost.cases.pixel_cases", lambda: pixel_cases((32, 64)))
    monkeypatch.setattr("nnunet_xattnres.cost.pixels.BLOCK_SIDES", (8, 16))
    out, picture = tmp_path / "figures.json", tmp_path / "pixels.png"
    arguments = ["--pixels", str(picture), "--trainer", "nnUNetTrainerPaperUNet", "--repeats", "1", "--out", str(out)]
    assert main(["cost", *arguments]) == 0
    written = json.loads(out.read_text())
    assert [[r["name"] for r in case["results"]] for case in written["cases"]] == [["stock", "PaperUNet"]] * 2
    assert [block["pixels"] for block in written["blocks"]] == [64, 64, 256, 256]
    assert picture.stat().st_size > 10_000
    rows = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if "training step" in line]
    assert rows == ["stock", "PaperUNet"]


def test_activation_checkpointing(plans, tmp_path):
    results = []
    for options in ([], ["--checkpoint"]):
        out = tmp_path / "figures.json"
        arguments = ["--plans", plans, "--repeats", "1", "--no-reference", "--out", str(out), *options]
        assert main(["cost", *arguments]) == 0
        written = json.loads(out.read_text())
        assert written["about"]["checkpoint"] == bool(options)
        results.append({result["name"]: result["saved_bytes"] for result in written["cases"][0]["results"]})
    without, checkpointed = results
    assert checkpointed["stock"] == without["stock"]
    assert checkpointed["XAttnRes"] < without["XAttnRes"]


def test_first_steps_and_layers(plans, tmp_path, capsys, monkeypatch):
    def measure_first_step(case, network, options, folder):
        assert folder.is_dir() and not list(folder.iterdir())
        return FirstStep(seconds={None: 1.0, "auto": 3.5}[network.backend])

    monkeypatch.setattr("nnunet_xattnres.cost.first_step.measure_first_step", measure_first_step)
    out = tmp_path / "figures.json"
    assert main(["cost", "--plans", plans, "--repeats", "1", "--first-step", "--layers", "--out", str(out)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["XAttnRes", "3.5", "2.5"] in rows
    assert [row[1] for row in rows if row and row[0] == "all"] == ["forward", "backward"]
    (case,) = json.loads(out.read_text())["cases"]
    stock, reference, ours = case["results"]
    assert (stock["first_step"]["seconds"], ours["first_step"]["seconds"]) == (1, 3.5)
    assert reference["first_step"] is None
    assert len(case["layers"]["XAttnRes"]["calls"]) == 8


def test_layers_that_do_not_fit_into_the_memory(plans, capsys, monkeypatch):
    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("nnunet_xattnres.cost.layers.measure_layers", fail)
    assert main(["cost", "--plans", plans, "--repeats", "1", "--no-reference", "--layers"]) == 0
    assert "out of memory" in capsys.readouterr().out


def test_a_wrong_result_is_not_measured(plans, tmp_path, capsys, monkeypatch):
    forward = torch_backend.forward

    def wrong(*args):
        out, alpha = forward(*args)
        return out * 1.001, alpha

    monkeypatch.setattr(torch_backend, "forward", wrong)
    out = tmp_path / "figures.json"
    assert main(["cost", "--plans", plans, "--backend", "torch", "--out", str(out)]) == 1
    output = capsys.readouterr()
    for precision in ("float64", "float32"):
        assert f"2d: XAttnRes torch in {precision}" in output.err
    assert "\nlogits 0 " in output.err
    assert "stock" not in output.out
    assert not out.exists()


def test_results_are_not_saved_if_pytorch_replaced_triton(plans, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(custom_op, "triton_refusals", {"no registers left"})
    out = tmp_path / "figures.json"
    assert main(["cost", "--plans", plans, "--repeats", "1", "--no-reference", "--out", str(out)]) == 1
    assert "no registers left" in capsys.readouterr().err
    assert not out.exists()


def test_a_backend_that_pytorch_would_replace_is_refused_before_anything_is_measured(capsys, monkeypatch):
    """On a CPU, mixed precision is bfloat16, which the C++ kernels do not have."""
    monkeypatch.setattr(dispatch, "why_cpp_unavailable", lambda device_type: None)
    options = {"device": torch.device("cpu"), "compile": False, "repeats": 1, "reference_repeats": 1}
    cost._check_backends(["auto", "cpp", "torch"], MeasureOptions(amp=False, **options))
    cost._check_backends(["auto", "torch"], MeasureOptions(amp=True, **options))
    monkeypatch.setattr(cost, "_measure_cases", lambda *arguments: pytest.fail("measured"))
    assert main(["cost", "--backend", "auto", "cpp", "--amp"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--backend cpp" in error and "bfloat16" in error


def test_the_command_knows_every_typical_case():
    assert set(cost._CASES) == set(TYPICAL_CASES)


@pytest.mark.parametrize("option", ["--repeats", "--reference-repeats", "--batch-size", "--threads", "--classes"])
@pytest.mark.parametrize("value", ["0", "-2"])
def test_numbers_below_one(capsys, option, value):
    with pytest.raises(SystemExit) as error:
        main(["cost", option, value])
    assert error.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert option in message and f"'{value}'" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "nowhere/figures.json"], "nowhere"),
        (["--scaling", "nowhere/scaling.png"], "nowhere"),
        (["--pixels", "nowhere/pixels.png"], "nowhere"),
        (["--device", "tpu"], "--device tpu"),
        (["--plans", "missing.json"], "missing.json"),
    ],
)
def test_rejected_arguments(capsys, arguments, named):
    assert main(["cost", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
