"""The networks that are measured beside each other: each is what a trainer of nnU-Net builds and trains."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from ..layer import XAttnRes
from ..networks.checkpointing import CHECKPOINT_VARIABLE
from ..training.lookup import find_trainer
from ..training.names import NETWORKS, PREFIX, ROUTINGS, TrainerName
from ..training.planned import PlannedNetworkTrainer
from ..training.trainer import XAttnResTrainer
from ..training.trainer_classes import trainer_class
from ..utils.errors import last_line
from .cases import Case

XATTNRES = str(TrainerName(routing="XAttnRes"))
"""The trainer of the planned network with XAttnRes in every stage."""

USEMA = str(TrainerName("USEMA"))
"""The trainer of the planned network with SEMA blocks."""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network to measure.

    Attributes:
        name: its name in tables.
        trainer: the name of the trainer that builds and trains it, as for nnUNetv2_train.
        backend: the backend of its XAttnRes layers; None leaves them as the trainer makes them.
    """

    name: str
    trainer: str = PREFIX
    backend: str | None = None


STOCK = MeasuredNetwork("stock")
"""The network that nnU-Net plans, also where the plans name one of this package."""


def trainer_class_of(name: str) -> type:
    """The class of a trainer.

    Raises:
        UserError: if neither this package nor nnU-Net's look-up has it; the message suggests a similar name.
    """
    try:
        return trainer_class(name)  # without the environment variable of nnU-Net's look-up
    except ValueError:
        return find_trainer(name)


def follows_plans(trainer: str) -> bool:
    """Whether a trainer's network derives from the planned one, so that small plans give a small network."""
    return issubclass(trainer_class_of(trainer), PlannedNetworkTrainer)


def short_name(trainer: str) -> str:
    """A trainer's name in tables.

    >>> short_name("nnUNetTrainerPaperUNetXAttnRes"), short_name("nnUNetTrainer"), short_name("MyTrainer")
    ('PaperUNetXAttnRes', 'stock', 'MyTrainer')
    """
    return trainer.removeprefix(PREFIX) or STOCK.name


def all_trainers() -> list[str]:
    """The trainers of every network of this package, each without XAttnRes and with it, without the stock network."""
    names = [
        str(TrainerName(network, routing))
        for network, entry in NETWORKS.items()
        for routing in ("", "XAttnRes")
        if routing in (entry.routings or ROUTINGS)
    ]
    return [name for name in names if name != PREFIX]


def start_training(
    network: MeasuredNetwork, case: Case, device: torch.device, compile: bool = False, checkpoint: bool = False
) -> nnUNetTrainer:
    """Make a trainer and initialise it as nnU-Net does: network, loss, optimiser; nothing is downloaded or kept.

    The network is `trainer.network`, with random weights.

    Args:
        network: the network.
        case: plans, patch size and batch size.
        device: where the network is; "meta" for shapes alone.
        compile: whether torch.compile compiles the network and the loss, whatever nnU-Net would do on this device.
        checkpoint: whether networks of this package compute some stages again in the backward pass.

    Raises:
        UserError: if there is no such trainer.
        ValueError: if a trainer of this package cannot train the case; other trainers raise what they like.
    """
    cls = trainer_class_of(network.trainer)
    case = case.stock() if network == STOCK else case
    plans, dataset_json = case.plans(), case.dataset_json()
    with tempfile.TemporaryDirectory(prefix="xattnres-cost-") as folder, _environment_of_nnunet(folder, checkpoint):
        # nnU-Net looks at the preprocessed files to see their format
        (configuration,) = plans["configurations"].values()
        data = Path(folder) / "nnUNet_preprocessed" / plans["dataset_name"] / configuration["data_identifier"]
        data.mkdir(parents=True)
        (data / "case.b2nd").touch()
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = cls(plans, case.configuration_name, 0, dataset_json, torch.device("cpu"))
            trainer.device = device
            trainer._do_i_compile = lambda: compile
            with device if device.type == "meta" else contextlib.nullcontext():  # without memory and initial values
                trainer.initialize()
    for module in plain(trainer).modules():
        if network.backend is not None and isinstance(module, XAttnRes):
            module.backend = network.backend
    return trainer


def plain(trainer: nnUNetTrainer) -> nn.Module:
    """The network of a trainer, not the wrapper that compiles it."""
    return getattr(trainer.network, "_orig_mod", trainer.network)


def has_xattnres(network: nn.Module) -> bool:
    """Whether a network has XAttnRes layers."""
    return any(isinstance(module, XAttnRes) for module in network.modules())


def _environment_of_nnunet(folder: str, checkpoint: bool) -> contextlib.AbstractContextManager[None]:
    """Let nnU-Net read and write in a folder that is thrown away, and report to no server."""
    variables = {name: str(Path(folder) / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    return environment(variables | {"nnUNet_wandb_enabled": "0", CHECKPOINT_VARIABLE: "1" if checkpoint else "0"})


def networks_of(
    trainers: Sequence[str], backends: Sequence[str], case: Case
) -> tuple[list[MeasuredNetwork], dict[str, str]]:
    """The networks of trainers that can train a case, those with XAttnRes once for every backend.

    Args:
        trainers: names of trainers.
        backends: backends of XAttnRes; "auto" is not shown in the names.
        case: plans, patch size and batch size.

    Returns:
        The networks, and by their names the reasons why other trainers cannot train the case.
    """
    networks: list[MeasuredNetwork] = []
    left_out: dict[str, str] = {}
    for trainer in dict.fromkeys(trainers):
        name = short_name(trainer)
        # networks of other packages may compute with tensors when they are built, which have no values on "meta"
        device = "meta" if issubclass(trainer_class_of(trainer), XAttnResTrainer) else "cpu"
        try:
            network = start_training(MeasuredNetwork(name, trainer), case, torch.device(device)).network
        except Exception as error:  # whatever a trainer raises that cannot train the case
            left_out[trainer] = last_line(error).removeprefix(trainer).removeprefix(":").strip()
            continue
        if has_xattnres(network):
            networks += [MeasuredNetwork(name if b == "auto" else f"{name} {b}", trainer, b) for b in backends]
        else:
            networks.append(MeasuredNetwork(name, trainer))
    return networks, left_out


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the body, and set them back after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
