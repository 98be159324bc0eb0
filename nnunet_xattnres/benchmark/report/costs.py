"""The cost of a trainer: size of its network, time per epoch, memory."""

import contextlib
import io
import statistics
from dataclasses import dataclass
from typing import Any

from ...training.lookup import find_trainer
from ...utils.errors import UserError
from ..folders import NnUNetFolders
from ..grid import ExperimentKey
from .results import Results


@dataclass(frozen=True)
class NetworkSize:
    """Parameters, and multiply-accumulate operations of convolutions and matrix products for one patch."""

    parameters: int
    macs: int


def measure_network(experiment: ExperimentKey, trainer: str, folders: NnUNetFolders) -> NetworkSize:
    """Build the network of a trainer without deep supervision and count, without computing anything.

    Raises:
        UserError: if the trainer is not found or cannot build the network.
    """
    import torch
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from torch.utils.flop_counter import FlopCounterMode

    from ...utils.files import read_json
    from ...utils.plans_file import get_configuration, read_plans

    plans = read_plans(folders.plans(experiment))
    configuration = get_configuration(plans, experiment.configuration, folders.plans(experiment))
    dataset = read_json(folders.preprocessed_dataset(experiment) / "dataset.json", "nnU-Net's dataset.json")
    trainer_class: Any = find_trainer(trainer)  # not nnUNetTrainer, which is not imported here
    try:
        channels = determine_num_input_channels(plans, configuration, dataset)
        heads = plans.get_label_manager(dataset).num_segmentation_heads
        with contextlib.redirect_stdout(io.StringIO()):
            network = trainer_class.build_network_architecture(plans, configuration, channels, heads, False).eval()
        patch = torch.zeros(1, channels, *configuration.patch_size, device="meta")  # has a shape, but no memory
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.to("meta")(patch)
    except Exception as error:  # a trainer's own network may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{trainer} cannot build a network for {experiment}: {reason}") from None
    return NetworkSize(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)


def epoch_seconds(results: Results, trainer: str) -> float | None:
    """Median over all epochs of all trainings, None without logs."""
    seconds = [value for trained in results.trained_by(trainer) for value in trained.log.series("seconds")[1]]
    return statistics.median(seconds) if seconds else None


def peak_memory(results: Results, trainer: str) -> int | None:
    """Maximum over all trainings in bytes: of the GPU, else of the largest process; None if it was not recorded."""
    attempts = [attempt for trained in results.trained_by(trainer) for attempt in trained.attempts]
    for key in ("peak_gpu_memory_bytes", "peak_memory_bytes"):
        if values := [attempt[key] for attempt in attempts if isinstance(attempt.get(key), int)]:
            return max(values)
    return None
