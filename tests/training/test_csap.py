"""The initial weights of CSAP's encoder: a file, or random weights with a warning in the log. Shared with EMCAD."""

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.csap import published_name, published_weights, small_encoder

from nnunet_xattnres.networks.mscan import MSCAN
from nnunet_xattnres.training.csap import nnUNetTrainerCSAP


@pytest.fixture
def start(prepared_plans, monkeypatch):
    """Start a training; returns the trainer and its log."""
    # nnU-Net's own start needs data
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)

    def start(weights=None):
        monkeypatch.delenv("XATTNRES_ENCODER_WEIGHTS", raising=False)
        if weights is not None:
            monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(weights))
        prepared_plans["plans"]["continue_training"] = False
        trainer = nnUNetTrainerCSAP(**prepared_plans, configuration="2d", fold=0, device=torch.device("cpu"))
        trainer.on_train_start()
        with open(trainer.log_file) as file:
            return trainer, file.read()

    with small_encoder():
        yield start


def test_a_file(start, tmp_path):
    published = published_weights(MSCAN(3))
    torch.save(published, tmp_path / "mscan_t.pth")
    trainer, log = start(tmp_path / "mscan_t.pth")
    for name, tensor in trainer.network.encoder.state_dict().items():
        if name != "stages.0.embed.0.weight":
            assert torch.equal(tensor.flatten(), published[published_name(name)].flatten())
    assert f"CSAP's encoder starts from ImageNet weights: {tmp_path / 'mscan_t.pth'}" in log
    assert "WARNING" not in log


def test_a_warning_without_a_file(start):
    """There is no download. The warning says how to name a file, in one line."""
    (warning,) = (line for line in start()[1].splitlines() if "CSAP" in line)
    assert all(part in warning for part in ("WARNING", "RANDOM", "XATTNRES_ENCODER_WEIGHTS=/path/to/mscan_t.pth"))


def test_random_weights_on_request(start):
    log = start("random")[1]
    assert "random weights" in log and "WARNING" not in log


def test_a_file_that_does_not_fit(start, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth.*'a'.*MSCAN-T") as error:
        start(tmp_path / "other.pth")
    assert "\n" not in str(error.value)
