"""A network that is measured is what nnU-Net's own trainer builds and trains, and nothing of the user's is touched."""

import os

import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.networks import (
    STOCK,
    XATTNRES,
    MeasuredNetwork,
    all_trainers,
    has_xattnres,
    networks_of,
    short_name,
    start_training,
    trainer_class_of,
)
from nnunet_xattnres.training.names import NETWORKS, parse
from nnunet_xattnres.utils.errors import UserError

META = torch.device("meta")


@pytest.fixture
def case(tmp_path):
    return from_plans(write_plans(tmp_path), "2d")


def test_the_trainer_of_stock(case):
    trainer = start_training(STOCK, case, torch.device("cpu"))
    assert type(trainer) is nnUNetTrainer
    assert type(trainer.network).__name__ == "PlainConvUNet"
    assert trainer.num_input_channels == case.input_channels
    assert trainer.label_manager.num_segmentation_heads == case.num_classes
    assert isinstance(trainer.loss, DeepSupervisionWrapper)
    assert type(trainer.optimizer) is torch.optim.SGD


def test_the_users_folders_and_variables_are_left_alone(case, tmp_path, monkeypatch, capsys):
    """No log is written, no folder is made, nothing is printed, and no server is told."""
    results = tmp_path / "results"
    monkeypatch.setenv("nnUNet_results", str(results))
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    before = dict(os.environ)
    start_training(STOCK, case, META)
    assert dict(os.environ) == before
    assert not results.exists()
    assert capsys.readouterr().out == ""


def test_the_backend_reaches_every_layer(case):
    network = start_training(MeasuredNetwork("reference", XATTNRES, "reference"), case, META).network
    assert [m.backend for m in network.modules() if hasattr(m, "pseudo_query")] == ["reference"] * 4


@pytest.mark.parametrize("checkpoint", [True, False])
def test_checkpointing(case, checkpoint, monkeypatch):
    monkeypatch.setenv("XATTNRES_CHECKPOINT", str(int(not checkpoint)))
    network = MeasuredNetwork("XAttnRes", XATTNRES)
    assert start_training(network, case, META, checkpoint=checkpoint).network.checkpoint == checkpoint


def test_compilation_is_what_the_option_says(case, monkeypatch):
    """Not what nnU-Net would do on the device, or the user's variable."""
    monkeypatch.setenv("nnUNet_compile", "t")
    compiled = start_training(STOCK, case, torch.device("cpu"), compile=True).network
    assert isinstance(compiled, torch._dynamo.OptimizedModule)
    assert not isinstance(start_training(STOCK, case, torch.device("cpu")).network, torch._dynamo.OptimizedModule)


def test_every_network_of_the_grammar_without_xattnres_and_with_it():
    parts = [parse(name) for name in all_trainers()]
    assert {p.network for p in parts} == set(NETWORKS)
    assert {p.routing for p in parts} == {"", "XAttnRes"}
    assert "nnUNetTrainer" not in all_trainers()


def test_networks_with_xattnres_once_for_every_backend(case):
    trainers = [XATTNRES, "nnUNetTrainerPaperUNet", XATTNRES]
    networks, left_out = networks_of(trainers, ["auto", "torch"], case)
    assert [(n.name, n.backend) for n in networks] == [
        ("XAttnRes", "auto"), ("XAttnRes torch", "torch"), ("PaperUNet", None)
    ]  # fmt: skip
    assert left_out == {}


def test_what_a_network_of_the_grammar_has(case):
    for name in all_trainers():
        network = start_training(MeasuredNetwork(name, name), case, META).network
        assert has_xattnres(network) == (parse(name).routing == "XAttnRes")
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


def test_trainers_by_name():
    assert trainer_class_of("nnUNetTrainerXAttnRes_5epochs").epochs == 5
    assert trainer_class_of("nnUNetTrainerNoDeepSupervision").__module__.startswith("nnunetv2.")
    with pytest.raises(UserError, match=r"did you mean nnUNetTrainerEMCAD\?"):
        trainer_class_of("nnUNetTrainerECMAD")


def test_names_in_tables_differ():
    names = [short_name(name) for name in all_trainers()]
    assert len({"stock", *names}) == len(names) + 1
