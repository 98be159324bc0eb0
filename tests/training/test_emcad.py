"""The initial weights of EMCAD's encoder: a file, a download by timm, or random weights with a warning in the log."""

import pytest
import timm
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from support.emcad import small_encoder

from nnunet_xattnres.networks import imagenet
from nnunet_xattnres.training.emcad import nnUNetTrainerEMCAD


@pytest.fixture(scope="module", autouse=True)
def small():
    """A small encoder, because its size does not matter here."""
    with small_encoder():
        yield


@pytest.fixture(scope="module")
def weights(small, tmp_path_factory):
    """A file of weights with a classification head, as published."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "pvt_v2_b2.pth"
    torch.save(timm.create_model("pvt_v2_b2").state_dict(), file)
    return file


@pytest.fixture
def make(prepared_plans, monkeypatch):
    monkeypatch.delenv("XATTNRES_ENCODER_WEIGHTS", raising=False)
    # nnU-Net's own start needs data
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)

    def make(cls=nnUNetTrainerEMCAD):
        prepared_plans["plans"]["continue_training"] = False
        return cls(**prepared_plans, configuration="2d", fold=0, device=torch.device("cpu"))

    return make


@pytest.fixture
def downloads(monkeypatch):
    """The names of the weights that timm was asked to download; every download fails, as without internet access."""
    requested = []
    create_model = timm.create_model

    def without_internet(name, pretrained=False, **options):
        if pretrained:
            requested.append(name)
            raise OSError("no route to host\nand more")
        return create_model(name, **options)

    monkeypatch.setattr(imagenet.timm, "create_model", without_internet)
    return requested


def starts_from(trainer, weights):
    expected = torch.load(weights)
    return all(torch.equal(t, expected[n]) for n, t in trainer.network.encoder.state_dict().items())


def read_log(trainer):
    with open(trainer.log_file) as f:
        return f.read()


def test_file_in_the_environment_variable(make, weights, downloads, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(weights))
    trainer = make()
    trainer.on_train_start()
    assert starts_from(trainer, weights)
    assert str(weights) in read_log(trainer)
    assert "WARNING" not in read_log(trainer)
    assert not downloads


def test_file_in_the_class_attribute(make, weights, downloads, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make(type("nnUNetTrainerMine", (nnUNetTrainerEMCAD,), {"encoder_weights": str(weights)}))
    trainer.on_train_start()
    assert starts_from(trainer, weights)
    assert not downloads


def test_a_warning_if_the_download_fails(make, downloads):
    """The warning has the reason in one line, and the variable that names a local file."""
    trainer = make()
    trainer.on_train_start()
    assert downloads == ["pvt_v2_b2.in1k"]
    before, warning = (line for line in read_log(trainer).splitlines() if "EMCAD" in line)
    assert "WARNING" not in before
    assert "WARNING" in warning and "RANDOM" in warning
    assert "(OSError: no route to host)" in warning
    assert all("XATTNRES_ENCODER_WEIGHTS" in line for line in (before, warning))


def test_random_weights_on_request(make, downloads, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make()
    trainer.on_train_start()
    assert not downloads
    assert "random" in read_log(trainer)
    assert "WARNING" not in read_log(trainer)


def test_a_file_that_does_not_fit(make, tmp_path, monkeypatch):
    file = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, file)
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(file))
    with pytest.raises(ValueError, match=r"other\.pth") as error:
        make().on_train_start()
    assert "\n" not in str(error.value)


def test_never_when_a_training_continues(make, weights, downloads, monkeypatch):
    trainer = make()
    trainer.on_train_start()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    downloads.clear()
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(weights))
    continued = make()
    continued.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    continued.on_train_start()
    assert not downloads
    for name, tensor in continued.network.state_dict().items():
        assert torch.equal(tensor, trainer.network.state_dict()[name])
    assert not starts_from(continued, weights)


def test_never_with_pretrained_weights(make, weights, downloads, monkeypatch):
    """nnU-Net's -pretrained_weights takes all parameters but the heads."""
    trainer = make()
    trainer.on_train_start()
    file = f"{trainer.output_folder}/pretrained.pth"
    trainer.save_checkpoint(file)
    downloads.clear()
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
    started = make()
    maybe_load_checkpoint(started, False, False, file)
    started.on_train_start()
    assert not downloads
    for name, tensor in started.network.state_dict().items():
        assert (
            torch.equal(tensor, trainer.network.state_dict()[name]) == (".seg_layers." not in name) or not tensor.any()
        )


def test_without_deep_supervision(make, monkeypatch):
    """A mix-in of nnU-Net switches it off: one head, one target, nnU-Net's own loss."""
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make(type("nnUNetTrainerMine", (nnUNetTrainerEMCAD, nnUNetTrainerNoDeepSupervision), {}))
    trainer.on_train_start()
    assert trainer._get_deep_supervision_scales() is None
    logits = trainer.network(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 2, 32, 32)
    assert isinstance(trainer.loss, DC_and_CE_loss)


def test_never_at_inference(make, downloads, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
    trainer = make()
    network = nnUNetTrainerEMCAD.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, False
    )
    assert not network.decoder.deep_supervision
    assert not downloads
