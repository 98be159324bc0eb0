"""`xattnres trainers --list`: every trainer once, with the parameters that its network has when nnU-Net builds it."""

import json

import pytest
from support.plans_file import write_plans

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.training.catalogue import catalogue


def listed(capsys, *arguments):
    assert main(["trainers", "--list", "--json", *map(str, arguments)]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_the_whole_catalogue(capsys):
    rows = listed(capsys)
    assert rows.keys() == catalogue().keys()
    assert rows["nnUNetTrainerXAttnResReplace_PaperMulticlass"] == {
        "name": "nnUNetTrainerXAttnResReplace_PaperMulticlass", "network": "planned", "routing": "XAttnRes (replace)",
        "recipe": "paper, multi-class", "dims": "2d, 3d",
    }  # fmt: skip
    assert rows["nnUNetTrainerEMCADNoSkip_PaperBinary"] == {
        "name": "nnUNetTrainerEMCADNoSkip_PaperBinary", "network": "EMCAD", "routing": "no skips",
        "recipe": "paper, binary", "dims": "2d",
    }  # fmt: skip


def test_what_a_name_says_stands_in_its_row(capsys):
    for name, row in listed(capsys).items():
        assert ("EMCAD" in name) == (row["network"] == "EMCAD")
        assert ("PaperUNet" in name) == (row["network"] == "paper's U-Net")
        assert row["recipe"] == (
            "paper, binary" if "_PaperBinary" in name else "paper, multi-class" if "_PaperM" in name else "nnU-Net"
        )
    routings = {(row["network"], row["recipe"], row["routing"]) for row in listed(capsys).values()}
    assert len(routings) == len(listed(capsys))


def test_text_has_a_line_for_each(capsys):
    assert main(["trainers", "--list"]) == 0
    head, first, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "network", "routing", "recipe", "dims"]
    assert first.split()[:2] == ["nnUNetTrainer_PaperMulticlass", "planned"]
    names = [line.split()[0] for line in [first, *lines] if line.startswith("nnUNetTrainer")]
    assert sorted(names) == sorted(catalogue())


def test_parameters_of_plans(capsys, tmp_path):
    plans = write_plans(tmp_path)
    labels = {"background": 0, "a": 1, "b": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "channel_names": {"0": "CT", "1": "PET"}}))
    rows = listed(capsys, "--plans", plans, "-c", "2d", "3d_fullres")
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(str(plans))
    names = "nnUNetTrainerXAttnRes", "nnUNetTrainerPaperUNetNoSkip", "nnUNetTrainerEMCAD", "nnUNetTrainer_PaperBinary"
    for name in names:
        cls = catalogue()[name]
        for configuration in ("2d", "3d_fullres"):
            planned = manager.get_configuration(configuration)
            # three labels: not for the binary recipe
            if len(planned.patch_size) in cls.dims and "Binary" not in name:
                network = cls.build_network_architecture(manager, planned, 2, 3)
                assert rows[name][configuration] == sum(p.numel() for p in network.parameters())
            else:
                assert rows[name][configuration] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "--json belongs to the list: add --list"),
        (["--classes", "3"], "--classes belongs to the list: add --list"),
        (["--list", "-c", "2d"], "add --plans FILE"),
        (["--list", "--plans", "{plans}", "--classes", "0"], "--classes must be at least 1, got 0"),
        (["--list", "--plans", "nowhere.json"], "nowhere.json cannot be read as an nnU-Net plans file"),
        (["--list", "--plans", "{plans}", "-c", "4d"], "has no configuration '4d'"),
    ],
)
def test_wrong_arguments(capsys, tmp_path, arguments, message):
    plans = str(write_plans(tmp_path))
    assert main(["trainers", *(a.format(plans=plans) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_plans_of_another_network(capsys, tmp_path):
    plans = write_plans(tmp_path)
    plans.write_text(plans.read_text().replace("unet.PlainConvUNet", "primus.Primus"))
    assert main(["trainers", "--list", "--plans", str(plans), "-c", "2d"]) == 2
    assert "XAttnRes can replace PlainConvUNet and ResidualEncoderUNet" in capsys.readouterr().err


def test_a_number_of_classes_instead_of_the_labels(capsys, tmp_path):
    plans = write_plans(tmp_path)
    dataset = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    two, five = (
        listed(capsys, "--plans", plans, "-c", "2d", *classes)["nnUNetTrainerEMCAD"]["2d"]
        for classes in ([], ["--classes", 5])
    )
    # four heads of a convolution with bias
    assert five - two == 3 * (512 + 320 + 128 + 64 + 4)
