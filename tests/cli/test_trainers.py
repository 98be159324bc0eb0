"""`xattnres trainers`: the path, and the list of all trainers with the parameters of the networks they build."""

import json
import subprocess
import sys

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.training import names
from nnunet_xattnres.training.names import trainer_names
from nnunet_xattnres.training.planned import PlannedNetworkTrainer
from nnunet_xattnres.training.trainer_classes import trainer_class


def listed(capsys, *arguments):
    assert main(["trainers", "--list", "--json", *map(str, arguments)]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_all_trainers(capsys):
    rows = listed(capsys)
    assert rows.keys() == set(trainer_names())
    assert rows["nnUNetTrainerXAttnResReplace_PaperMulticlass"] == {
        "name": "nnUNetTrainerXAttnResReplace_PaperMulticlass", "network": "planned", "routing": "XAttnRes (replace)",
        "recipe": "paper, multi-class", "dims": "2d, 3d",
    }  # fmt: skip
    assert rows["nnUNetTrainerEMCADNoSkip_PaperBinary"] == {
        "name": "nnUNetTrainerEMCADNoSkip_PaperBinary", "network": "EMCAD", "routing": "no skips",
        "recipe": "paper, binary", "dims": "2d",
    }  # fmt: skip


def test_rows_agree_with_the_names(capsys):
    for name, row in listed(capsys).items():
        assert ("EMCAD" in name) == (row["network"] == "EMCAD")
        assert ("PaperUNet" in name) == (row["network"] == "paper's U-Net")
        labels = {
            "PaperBinary": "paper, binary",
            "PaperMulticlass": "paper, multi-class",
            "LayersOnly": "layers only (ours)",
        }
        assert row["recipe"] == labels.get(name.rpartition("_")[2], "nnU-Net")


@pytest.mark.parametrize("arguments", [[], ["--list"], ["--list", "--json"]])
def test_it_starts_without_torch(arguments):
    program = f"""
import sys
from nnunet_xattnres.cli.main import main
assert main({["trainers", *arguments]}) == 0
sys.exit(" ".join({{"torch", "nnunetv2", "numpy", "timm"}} & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout


def test_text_has_a_line_for_each(capsys):
    assert main(["trainers", "--list"]) == 0
    head, first, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "network", "routing", "recipe", "dims"]
    assert first.split()[:2] == ["nnUNetTrainer_PaperMulticlass", "planned"]
    printed = [line.split()[0] for line in [first, *lines] if line.startswith("nnUNetTrainer")]
    assert sorted(printed) == sorted(trainer_names())


@pytest.mark.slow
def test_parameters_of_plans(capsys, tmp_path):
    plans = write_plans(tmp_path)
    labels = {"background": 0, "a": 1, "b": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "channel_names": {"0": "CT", "1": "PET"}}))
    rows = listed(capsys, "--plans", plans, "-c", "2d", "3d_fullres")
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(str(plans))
    some = "nnUNetTrainerXAttnRes", "nnUNetTrainerPaperUNetNoSkip", "nnUNetTrainerEMCAD", "nnUNetTrainer_PaperBinary"
    for name in some:
        cls = trainer_class(name)
        for configuration in ("2d", "3d_fullres"):
            planned = manager.get_configuration(configuration)
            # the binary recipe cannot train two foreground labels
            if len(planned.patch_size) in cls.dims and "Binary" not in name:
                with torch.device("meta"):
                    network = cls.build_network_architecture(manager, planned, 2, 3)
                assert rows[name][configuration] == sum(p.numel() for p in network.parameters())
            else:
                assert rows[name][configuration] is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--json"], ["--json", "--list"]),
        (["--classes", "3"], ["--classes", "--list"]),
        (["--list", "-c", "2d"], ["--configuration", "--plans"]),
        (["--list", "--plans", "{plans}", "--classes", "0"], ["--classes", "0"]),
        (["--list", "--plans", "nowhere.json"], ["nowhere.json"]),
        (["--list", "--plans", "{plans}", "-c", "4d"], ["{plans}", "4d", "2d", "3d_fullres"]),
    ],
)
def test_wrong_arguments(capsys, tmp_path, arguments, named):
    """The error is one line that names the argument, and the option or the values that would be right."""
    plans = str(write_plans(tmp_path))
    assert main(["trainers", *(a.format(plans=plans) for a in arguments)]) == 2
    error = capsys.readouterr().err
    for text in named:
        assert text.format(plans=plans) in error
    assert error.count("\n") == 1


def test_plans_of_another_network(capsys, tmp_path):
    """The planned network cannot be replaced, which is said; those that take its place can be trained."""
    plans = write_plans(tmp_path)
    plans.write_text(plans.read_text().replace("unet.PlainConvUNet", "primus.Primus"))
    assert main(["trainers", "--list", "--plans", str(plans), "-c", "2d"]) == 0
    *rows, _, reason, _, _ = capsys.readouterr().out.splitlines()
    assert all(name in reason for name in ("2d", "PlainConvUNet", "ResidualEncoderUNet", "primus.Primus"))
    without = [row.split()[0] for row in rows[1:] if not row.endswith(" M")]
    assert without == [name for name in trainer_names() if issubclass(trainer_class(name), PlannedNetworkTrainer)]
    assert reason.startswith(f"{len(without)} trainers")


def test_a_number_of_classes_instead_of_the_labels(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "trainer_names", lambda: ["nnUNetTrainerEMCAD"])  # the others take seconds
    plans = write_plans(tmp_path)
    dataset = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    two, five = (
        listed(capsys, "--plans", plans, "-c", "2d", *classes)["nnUNetTrainerEMCAD"]["2d"]
        for classes in ([], ["--classes", 5])
    )
    # four heads of a convolution with bias
    assert five - two == 3 * (512 + 320 + 128 + 64 + 4)
