"""Where EMCAD's encoder starts from: a file, timm, or random weights with a loud line; never on --c or at inference."""

import pytest
import timm
import torch

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
    trainer.initialize()
    assert starts_from(trainer, weights)
    assert f"EMCAD's encoder starts from ImageNet weights: {weights}" in log(trainer)
    assert not fetched


def test_from_the_file_of_the_class(make, weights, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make(type("nnUNetTrainerMine", (nnUNetTrainerEMCAD,), {"encoder_weights": str(weights)}))
    trainer.initialize()
    assert starts_from(trainer, weights)
    assert not fetched


def test_without_a_network_it_says_so_loudly_and_starts_at_random(make, fetched):
    trainer = make()
    trainer.initialize()
    assert fetched == ["pvt_v2_b2.in1k"]
    (line,) = (line for line in log(trainer).splitlines() if "EMCAD" in line)
    assert "WARNING: EMCAD's encoder starts from RANDOM weights" in line
    assert "(OSError: no route to host)" in line
    assert "export XATTNRES_ENCODER_WEIGHTS=/a/file" in line


def test_random_when_asked_for(make, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    trainer = make()
    trainer.initialize()
    assert not fetched
    assert "starts from random weights, as asked for" in log(trainer)


def test_a_file_that_does_not_fit(make, tmp_path, monkeypatch):
    file = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, file)
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(file))
    with pytest.raises(ValueError, match=r"other.pth do not fit: .* expected the ImageNet weights") as error:
        make().initialize()
    assert "\n" not in str(error.value)


def test_never_when_a_training_continues(make, weights, fetched, monkeypatch):
    trainer = make()
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    fetched.clear()
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", str(weights))
    continued = make()
    continued.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert not fetched
    for name, tensor in continued.network.state_dict().items():
        assert torch.equal(tensor, trainer.network.state_dict()[name])
    assert not starts_from(continued, weights)


def test_never_at_inference(make, fetched, monkeypatch):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
    trainer = make()
    network = nnUNetTrainerEMCAD.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, False
    )
    assert not network.decoder.deep_supervision
    assert not fetched
