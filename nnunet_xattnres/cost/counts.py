"""Parameters and multiply-adds of every network of this package, counted on shapes alone."""

from dataclasses import dataclass

import torch

from ..utils.multiply_adds import count_multiply_adds
from .cases import TYPICAL_CASES, Case
from .networks import STOCK, MeasuredNetwork, all_trainers, short_name, start_training

CASE = "2d-256"
"""The typical plans for which the networks are counted: seven stages, patches of 256x256 pixels, three classes."""


@dataclass(frozen=True)
class NetworkCount:
    """The size of a network in inference, for one image.

    Attributes:
        network: its name in tables.
        trainer: the name of its trainer.
        parameters: the number of parameters.
        macs: multiply-adds of convolutions and linear layers.
        attention_macs: multiply-adds of the products inside attention.
    """

    network: str
    trainer: str
    parameters: int
    macs: int
    attention_macs: int

    @property
    def all_macs(self) -> int:
        """All multiply-adds."""
        return self.macs + self.attention_macs


def count_all() -> list[NetworkCount]:
    """Count stock nnU-Net and every network of this package, without XAttnRes and with it, for the plans `CASE`."""
    networks = [STOCK, *(MeasuredNetwork(short_name(name), name, "torch") for name in all_trainers())]
    return [count(network, TYPICAL_CASES[CASE]) for network in networks]


def count(network: MeasuredNetwork, case: Case) -> NetworkCount:
    """Count one network.

    Raises:
        Exception: of any type, if its trainer cannot train the case.
    """
    trainer = start_training(network, case, torch.device("meta"))
    trainer.set_deep_supervision_enabled(False)
    built = trainer.network.eval()
    image = torch.zeros(1, case.input_channels, *case.patch_size, device="meta")
    return NetworkCount(
        network.name, network.trainer, sum(p.numel() for p in built.parameters()), *count_multiply_adds(built, image)
    )
