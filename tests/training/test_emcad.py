"""Where EMCAD's encoder starts from: a file, timm, or random weights with a loud line; nothing where it continues."""

import pytest
import timm
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from nnunet_xattnres.networks import imagenet
from nnunet_xattnres.training.emcad import nnUNetTrainerEMCAD


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "pvt_v2_b2.pth"
    torch.save(timm.create_model("pvt_v2_b2").state_dict(), file)
    return file


@pytest.fixture
def make(prepared_plans, monkeypatch):
    monkeypatch.delenv("XATTNRES_ENCODER_WEIGHTS", raising=False)
    # what nnU-Net does next needs data
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)

    def make(cls=nnUNetTrainerEMCAD):
        prepared_plans["plans"]["continue_training"] = False
        return cls(**prepared_plans, configuration="2d", fold=0, device=torch.device("cpu"))

    return make


@pytest.fixture
def fetched(monkeypatch):
    """How often timm was asked; it is as if there were no network."""
    calls = []

    def create_model(name, pretrained=False, original=timm.create_model, **options):
        if pretrained:
            calls.append(name)
            raise OSError("no route to host\nand more")
        return original(name, **options)

    monkeypatch.setattr(imagenet.timm, "create_model", create_model)
    return calls


def starts_from(trainer, weights):
    expected = torch.load(weights)
    return all(torch.equal(t, expected[n]) for n, t in trainer.network.encoder.state_dict().items())


def log(trainer):
    with open(trainer.log_file) as f:
        return f.read()


def test_from_the_file_of_the_environment(make, weights, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(weights))
    trainer = make()
    trainer.on_train_start()
    assert starts_from(trainer, weights)
    assert f"EMCAD's encoder starts from ImageNet weights: {weights}" in log(trainer)
    assert not fetched


def test_from_the_file_of_the_class(make, weights, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make(type("nnUNetTrainerMine", (nnUNetTrainerEMCAD,), {"encoder_weights": str(weights)}))
    trainer.on_train_start()
    assert starts_from(trainer, weights)
    assert not fetched


def test_without_a_network_it_says_so_loudly_and_starts_at_random(make, fetched):
    trainer = make()
    trainer.on_train_start()
    assert fetched == ["pvt_v2_b2.in1k"]
    before, line = (line for line in log(trainer).splitlines() if "EMCAD" in line)
    assert "fetching ImageNet weights" in before
    assert "WARNING: EMCAD's encoder starts from RANDOM weights" in line
    assert "(OSError: no route to host)" in line
    assert "export XATTNRES_ENCODER_WEIGHTS=/a/file" in line


def test_random_when_asked_for(make, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make()
    trainer.on_train_start()
    assert not fetched
    assert "starts from random weights, as asked for" in log(trainer)


def test_a_file_that_does_not_fit(make, tmp_path, monkeypatch):
    file = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, file)
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(file))
    with pytest.raises(ValueError, match=r"other.pth do not fit: .* expected the ImageNet weights") as error:
        make().on_train_start()
    assert "\n" not in str(error.value)


def test_never_when_a_training_continues(make, weights, fetched, monkeypatch):
    trainer = make()
    trainer.on_train_start()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    fetched.clear()
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(weights))
    continued = make()
    continued.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    continued.on_train_start()
    assert not fetched
    for name, tensor in continued.network.state_dict().items():
        assert torch.equal(tensor, trainer.network.state_dict()[name])
    assert not starts_from(continued, weights)


def test_never_with_pretrained_weights(make, weights, fetched, monkeypatch):
    """As nnU-Net's -pretrained_weights: all of a network but its heads."""
    trainer = make()
    trainer.on_train_start()
    file = f"{trainer.output_folder}/pretrained.pth"
    trainer.save_checkpoint(file)
    fetched.clear()
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
    started = make()
    maybe_load_checkpoint(started, False, False, file)
    started.on_train_start()
    assert not fetched
    for name, tensor in started.network.state_dict().items():
        assert (
            torch.equal(tensor, trainer.network.state_dict()[name]) == (".seg_layers." not in name) or not tensor.any()
        )


def test_without_deep_supervision(make, monkeypatch):
    """As nnU-Net's own mix-ins switch it off: one head, one target, the plain loss."""
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make(type("nnUNetTrainerMine", (nnUNetTrainerEMCAD, nnUNetTrainerNoDeepSupervision), {}))
    trainer.on_train_start()
    assert trainer._get_deep_supervision_scales() is None
    logits = trainer.network(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 2, 32, 32)
    assert isinstance(trainer.loss, DC_and_CE_loss)


def test_never_at_inference(make, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
    trainer = make()
    network = nnUNetTrainerEMCAD.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, False
    )
    assert not network.decoder.deep_supervision
    assert not fetched
