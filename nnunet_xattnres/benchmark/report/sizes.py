"""Parameters and operations of the network that a trainer builds for some plans."""

import contextlib
import io
from dataclasses import dataclass

from ...training.lookup import find_trainer
from ...utils.errors import UserError
from ..folders import NnUNetFolders
from ..grid import ExperimentKey


@dataclass(frozen=True)
class Size:
    """Parameters, and multiply-adds of convolutions, linear layers and matrix products for one patch."""

    parameters: int
    macs: int


def measure(experiment: ExperimentKey, trainer: str, folders: NnUNetFolders) -> Size:
    """Build the network as for prediction, and count.

    Raises:
        UserError: if the trainer is not found or cannot build it.
    """
    import torch
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from torch.utils.flop_counter import FlopCounterMode

    from ...utils.files import read_json
    from ...utils.plans_file import get_configuration, read_plans

    plans = read_plans(folders.plans(experiment))
    configuration = get_configuration(plans, experiment.configuration, folders.plans(experiment))
    dataset = read_json(folders.preprocessed_dataset(experiment) / "dataset.json", "nnU-Net's dataset.json")
    trainer_class = find_trainer(trainer)
    try:
        channels = determine_num_input_channels(plans, configuration, dataset)
        heads = plans.get_label_manager(dataset).num_segmentation_heads
        with contextlib.redirect_stdout(io.StringIO()):
            network = trainer_class.build_network_architecture(plans, configuration, channels, heads, False).eval()
        # "meta" computes shapes alone
        patch = torch.zeros(1, channels, *configuration.patch_size, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.to("meta")(patch)
    except Exception as error:  # whatever a trainer's own network raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{trainer} builds no network for {experiment}: {reason}") from None
    return Size(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
