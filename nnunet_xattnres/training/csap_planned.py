"""Trainers of the network that nnU-Net planned, with the propagated attention of CSAP."""

from ..networks.csap_planned import CSAP_PLANNED_UNETS
from .names import NETWORKS, ROUTINGS, TrainerName
from .planned import PlannedNetworkTrainer
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class nnUNetTrainerCSAPPlanned(PlannedNetworkTrainer):
    """Trains the planned network with the attention of its bottleneck in every decoder stage, without XAttnRes.

    The idea is that of CSAP (arXiv 2604.05431), the network is ours (`CSAPPlannedMixin`).

    Attributes:
        network_options: options of `Connections`: skip, encoder, decoder, decoder_input, init, backend, gate,
            checkpoint.

    Raises:
        ValueError: if there is no network for the planned one.
    """

    network_name = NETWORKS["CSAPPlanned"].label
    routing = ROUTINGS[""].label
    network_options = TrainerName("CSAPPlanned").network_options
    dims = NETWORKS["CSAPPlanned"].dims
    networks = CSAP_PLANNED_UNETS


def __getattr__(name: str) -> type[XAttnResTrainer]:
    return module_attribute(__name__, name)  # the other trainers of this network


def __dir__() -> list[str]:
    return [*globals(), *module_names(__name__)]
