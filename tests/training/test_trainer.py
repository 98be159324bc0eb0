"""The trainer builds its network for training and for inference, and refuses unsuitable plans in one line."""

import inspect
import pickle
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.nn.parallel import DistributedDataParallel

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunet_xattnres.networks.checkpointing import CHECKPOINT_VARIABLE
from nnunet_xattnres.ops import custom_op
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes


class Replace(nnUNetTrainerXAttnRes):
    network_options = {"skip": False, "init": "normal"}  # noqa: RUF012


def trainer(arguments, cls=nnUNetTrainerXAttnRes, configuration="2d"):
    return cls(**arguments, configuration=configuration, fold=0, device=torch.device("cpu"))


def inference_network(arguments, cls, configuration):
    """The network as nnUNetPredictor builds it: by the class, without an instance and without deep supervision."""
    plans = PlansManager(arguments["plans"])
    assert "plans_manager" in inspect.signature(cls.build_network_architecture).parameters
    return cls.build_network_architecture(
        plans, plans.get_configuration(configuration), 1, 2, enable_deep_supervision=False
    )


@pytest.mark.parametrize(
    ("configuration", "network"), [("2d", XAttnResUNet), ("3d_fullres", XAttnResResidualEncoderUNet)]
)
def test_training_and_inference_build_the_same_network(prepared_plans, configuration, network):
    inference = inference_network(prepared_plans, nnUNetTrainerXAttnRes, configuration)
    training = trainer(prepared_plans, configuration=configuration)
    plans = training.plans_manager
    built = training.build_network_architecture(plans, training.configuration_manager, 1, 2, True)
    assert type(built) is type(inference) is network
    assert built.decoder.deep_supervision
    assert not inference.decoder.deep_supervision
    inference.load_state_dict(built.state_dict(), strict=True)


def test_network_options(prepared_plans):
    network = inference_network(prepared_plans, Replace, "2d")
    assert not network.connections.skip
    assert network.xattnres["1"].pseudo_query.std() > 0
    assert nnUNetTrainerXAttnRes.network_options == {}


def test_deep_supervision_is_switched_by_nnunet(prepared_plans):
    t = trainer(prepared_plans)
    t.network = t.build_network_architecture(t.plans_manager, t.configuration_manager, 1, 2, True)
    t.set_deep_supervision_enabled(False)
    assert isinstance(t.network(torch.randn(1, 1, 16, 16)), torch.Tensor)


def test_the_class_can_be_pickled_and_inspected():
    assert pickle.loads(pickle.dumps(nnUNetTrainerXAttnRes)) is nnUNetTrainerXAttnRes
    assert "network_options" in inspect.getsource(nnUNetTrainerXAttnRes)


def test_results_folder_not_set(prepared_plans, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(RuntimeError, match="nnUNet_results") as error:
        trainer(prepared_plans)
    assert "\n" not in str(error.value)


def test_plans_of_another_network(prepared_plans):
    name = "dynamic_network_architectures.architectures.primus.Primus"
    prepared_plans["plans"]["configurations"]["2d"]["architecture"]["network_class_name"] = name
    with pytest.raises(ValueError, match=name):
        inference_network(prepared_plans, nnUNetTrainerXAttnRes, "2d")


def test_nnunets_own_mix_ins_work(prepared_plans):
    without = type("A", (nnUNetTrainerXAttnRes, nnUNetTrainerNoDeepSupervision), {})
    t = trainer(prepared_plans, without)
    assert not t.enable_deep_supervision
    assert type(t._build_loss()) is DC_and_CE_loss
    prepared_plans["plans"]["continue_training"] = False
    t = trainer(prepared_plans, type("B", (nnUNetTrainerXAttnRes, nnUNetTrainerCELoss), {}))
    assert type(t._build_loss().loss) is RobustCrossEntropyLoss


@pytest.fixture
def logged(prepared_plans, monkeypatch):
    """A trainer with its network, and the lines that it logs."""
    lines = []
    training = trainer(prepared_plans)
    training.network = training.build_network_architecture(
        training.plans_manager, training.configuration_manager, 1, 2, True
    )
    monkeypatch.setattr(training, "print_to_log_file", lambda *words, **_: lines.append(" ".join(map(str, words))))
    return training, lines


def test_the_log_says_once_what_has_computed(logged, monkeypatch):
    training, lines = logged
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda self: None)
    monkeypatch.setattr(custom_op, "used_backends", {"torch", "triton"})
    monkeypatch.setattr(custom_op, "triton_refusals", {"no shared memory"})
    training.on_epoch_end()
    training.on_epoch_end()
    (line,) = lines
    assert all(word in line for word in ("torch", "triton", "no shared memory"))


class Gated(nnUNetTrainerXAttnRes):
    network_options = {"gate": True}  # noqa: RUF012


@pytest.fixture
def gated_training(prepared_plans, tmp_path):
    """A trainer of a gated network, and a group of this process alone, for DistributedDataParallel."""
    training = trainer(prepared_plans, Gated)
    training.initialize()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield training
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "plain": lambda network: network,
    "compiled": partial(torch.compile, backend="eager"),
    "in DDP": DistributedDataParallel,
    "compiled, in DDP": lambda network: DistributedDataParallel(torch.compile(network, backend="eager")),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_the_log_has_the_gates_every_50_epochs_and_at_the_end(gated_training, monkeypatch, wrap):
    """Of a training of 120 epochs, in nnU-Net's own log; nothing else of an epoch is run."""
    training = gated_training
    for n, layer in training.network.xattnres.items():
        torch.nn.init.constant_(layer.gate, -int(n) / 8)
    training.network, training.num_epochs = wrap(training.network), 120

    def on_epoch_end(self):
        self.current_epoch += 1

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", on_epoch_end)
    for _ in range(training.num_epochs):
        training.on_epoch_end()
    lines = [line for line in Path(training.log_file).read_text().splitlines() if "Gates" in line]
    assert [re.search(r"epoch (\d+)", line)[1] for line in lines] == ["49", "99", "119"]
    assert all(line.endswith(": 1: -0.1250, 2: -0.2500, 3: -0.3750, 4: -0.5000 ") for line in lines)


def test_gates_are_logged_by_the_first_process_alone_and_only_where_there_are_some(prepared_plans, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.training.trainer.GATE_INTERVAL", 1)
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda self: None)
    for cls, rank, expected in ((Gated, 0, 1), (Gated, 1, 0), (nnUNetTrainerXAttnRes, 0, 0)):
        training, lines = trainer(prepared_plans, cls), []
        training.initialize()
        training.local_rank = rank
        monkeypatch.setattr(training, "print_to_log_file", lambda line, lines=lines: lines.append(line))
        training.on_epoch_end()
        assert sum("Gates" in line for line in lines) == expected
        prepared_plans["plans"]["continue_training"] = False


@pytest.mark.parametrize("others", ["torch", "triton"])
def test_processes_agree_on_a_backend(logged, monkeypatch, others):
    training, lines = logged

    def gather(backends, own):
        backends[:] = [own, others]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    layers = training._layers()
    expected = "triton" if others == "triton" else "torch"
    assert training._agree_on_backend(layers, "triton") == expected
    assert {layer.backend for layer in layers} == ({None} if others == "triton" else {"torch"})
    assert len(lines) == (others != "triton")


@pytest.mark.parametrize(("value", "checkpoint"), [("1", True), ("0", False), (None, False)])
def test_activation_checkpointing_by_the_environment_variable(prepared_plans, monkeypatch, value, checkpoint):
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(CHECKPOINT_VARIABLE, value)
    lines = []
    training = trainer(prepared_plans)
    monkeypatch.setattr(training, "print_to_log_file", lambda *words, **_: lines.append(" ".join(map(str, words))))
    training.initialize()
    assert training.network.checkpoint == checkpoint
    assert len([line for line in lines if "checkpointing is on" in line]) == checkpoint


def test_an_unknown_value_of_the_variable_for_checkpointing(prepared_plans, monkeypatch, tmp_path):
    monkeypatch.setenv(CHECKPOINT_VARIABLE, "yes")
    with pytest.raises(ValueError, match=rf"{CHECKPOINT_VARIABLE}.*'yes'") as error:
        trainer(prepared_plans)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nnUNet_results").exists()
