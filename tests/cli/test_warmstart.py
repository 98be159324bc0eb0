"""`xattnres warmstart`: nnU-Net starts from what it writes, and bad input is one line."""

import json
from copy import deepcopy

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.plans_file import plans_dict

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.training.trainer_classes import trainer_class
from nnunet_xattnres.utils.paths import trainers_path

GATED = "nnUNetTrainerXAttnResGated"
LABELS = {"background": 0, "organ": 1}


def make(cls, labels=None, configuration="2d"):
    """A trainer as nnUNetv2_train makes it."""
    dataset = {"labels": labels or LABELS, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    return cls(plans_dict(), configuration, 0, dataset, device=torch.device("cpu"))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with nnU-Net's three folders."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    preprocessed = tmp_path / "nnUNet_preprocessed"
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    data = preprocessed / "Dataset999_Test" / "nnUNetPlans_2d"
    data.mkdir(parents=True)
    (data / "case.b2nd").touch()  # nnU-Net looks at the suffix of the files
    return tmp_path


@pytest.fixture
def stock(folders):
    """An initialised stock trainer, and its checkpoint."""
    trainer = make(nnUNetTrainer)
    trainer.initialize()
    for parameter in trainer.network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoint = folders / "stock.pth"
    trainer.save_checkpoint(str(checkpoint))
    return trainer, checkpoint


def warmstart(capsys, *arguments):
    """Exit code and output; an error is one line."""
    code = main(["warmstart", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1 and bool(err) == bool(code)
    return code, out + err


def logits(network):
    network.eval()
    network.decoder.deep_supervision = False
    return network(torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))


def test_continuing_from_the_fold_starts_as_the_stock_network(stock, capsys):
    trained, checkpoint = stock
    assert warmstart(capsys, checkpoint, "-f", "0")[0] == 0
    trainer = make(trainer_class(GATED))
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == 0
    assert type(trainer.optimizer) is torch.optim.SGD
    assert torch.equal(logits(trainer.network), logits(trained.network))

    code, text = warmstart(capsys, checkpoint, "-f", "0")  # the training has begun
    assert code == 2 and "checkpoint_latest.pth" in text


def test_pretrained_weights(stock, folders, capsys):
    trained, checkpoint = stock
    file = folders / "warm.pth"
    assert warmstart(capsys, checkpoint, "-o", file)[0] == 0
    trainer = make(trainer_class(GATED))
    maybe_load_checkpoint(trainer, False, False, str(file))
    # nnU-Net leaves the segmentation heads out
    trainer.network.decoder.seg_layers.load_state_dict(trained.network.decoder.seg_layers.state_dict())
    assert torch.equal(logits(trainer.network), logits(trained.network))

    before = file.read_bytes()
    assert warmstart(capsys, checkpoint, "-o", file)[0] == 2 and file.read_bytes() == before
    assert warmstart(capsys, checkpoint, "-o", file, "--overwrite")[0] == 0


def test_other_plans_with_other_classes(stock, folders, capsys):
    plans = deepcopy(plans_dict())
    (folders / "nnUNetPlans.json").write_text(json.dumps(plans))
    regions = {"background": 0, "whole": [1, 2], "core": [2], "edge": [1]}
    description = {"labels": regions, "regions_class_order": [1, 2, 3], "channel_names": {"0": "CT"}}
    (folders / "dataset.json").write_text(json.dumps(description | {"file_ending": ".png"}))
    code, text = warmstart(capsys, stock[1], "-o", folders / "warm.pth", "--plans", folders / "nnUNetPlans.json")
    assert code == 0 and "decoder.seg_layers.0" in text


def assert_one_line(capsys, *arguments, facts):
    code, text = warmstart(capsys, *arguments)
    line = text.splitlines()[-1]  # after the report
    assert code == 2 and line.startswith("xattnres warmstart: ") and all(fact in line for fact in facts), text


def test_checkpoints_that_are_none(stock, folders, capsys):
    (folders / "text.pth").write_text("no checkpoint")
    torch.save({"state_dict": {}}, folders / "other.pth")
    for name in ("text.pth", "other.pth", "missing.pth"):
        assert_one_line(capsys, folders / name, "-o", folders / "warm.pth", facts=[name])
    assert not (folders / "warm.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["-tr", "nnUNetTrainerPaperUNet", "-c", "3d_fullres"], ["nnUNetTrainerPaperUNet", "2-D"]),
        (["-tr", "nnUNetTrainerXAttnResGate"], ["nnUNetTrainerXAttnResGate", "nnUNetTrainerXAttnResGated"]),
        (["-c", "3d_lowres"], ["3d_lowres", "2d, 3d_fullres"]),
        # of the stock network's tensors, the biases and normalisations would fit
        (["-c", "3d_fullres"], ["no convolution"]),
        # without skip connections the first convolutions of the decoder stages have other shapes
        (["-tr", "nnUNetTrainerXAttnResReplace_LayersOnly"], ["freezes", "decoder.stages.0"]),
    ],
)
def test_what_does_not_fit(stock, folders, capsys, arguments, facts):
    assert_one_line(capsys, stock[1], "-o", folders / "warm.pth", *arguments, facts=facts)
    assert not (folders / "warm.pth").exists()


def test_folds(stock, folders, capsys, monkeypatch):
    assert_one_line(capsys, stock[1], "-f", "x", facts=["'x'"])
    monkeypatch.setenv("nnUNet_preprocessed", str(folders / "nowhere"))
    assert_one_line(capsys, stock[1], "-f", "1", facts=["Dataset999_Test", "nnUNet_preprocessed"])
