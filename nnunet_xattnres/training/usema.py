"""Trainers of USEMA."""

from typing import ClassVar

from ..attention.sema import HEAD_WIDTH
from ..networks.usema import USEMA_UNETS, check_blocks
from .names import NETWORKS, ROUTINGS, TrainerName
from .planned import PlannedNetworkTrainer
from .trainer import XAttnResTrainer
from .trainer_classes import module_attribute, module_names


class nnUNetTrainerUSEMA(PlannedNetworkTrainer):
    """Trains the planned network with SEMA blocks behind every second stage of its encoder, and skip connections.

    Attributes:
        blocks: the places of the blocks, see `USEMAMixin`.
        network_options: options of `Connections`, without XAttnRes by default; window, head_width and scale of
            `USEMAMixin`.

    Raises:
        ValueError: if the planned network is another than PlainConvUNet or ResidualEncoderUNet, or the head width does
            not divide the channels of a stage with a block.
    """

    network_name = NETWORKS["USEMA"].label
    routing = ROUTINGS[""].label
    dims = NETWORKS["USEMA"].dims
    networks = USEMA_UNETS
    blocks: ClassVar[str] = "encoder"
    network_options = TrainerName("USEMA").network_options

    @classmethod
    def check_patches(cls, configuration):
        super().check_patches(configuration)
        planned = configuration.network_arch_init_kwargs
        widths, options = planned["features_per_stage"], {**planned, **cls.network_options}
        if isinstance(widths, int):
            widths = [widths] * planned["n_stages"]
        check_blocks(widths, cls.blocks, options.get("head_width", HEAD_WIDTH))

    @classmethod
    def options(cls):
        return {"blocks": cls.blocks, **super().options()}


class nnUNetTrainerUSEMABot(nnUNetTrainerUSEMA):
    """Trains the planned network with one SEMA block, behind the deepest stage; otherwise as `nnUNetTrainerUSEMA`."""

    network_name = NETWORKS["USEMABot"].label
    blocks = "bottleneck"


def __getattr__(name: str) -> type[XAttnResTrainer]:
    return module_attribute(__name__, name)  # the other trainers of these networks


def __dir__() -> list[str]:
    return [*globals(), *module_names(__name__)]
