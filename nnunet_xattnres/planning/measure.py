"""The memory that a training really takes on a GPU, for plans that use it up."""

from collections.abc import Callable, Sequence

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from ..cost.cases import Case
from ..cost.measure import MeasureOptions, measure
from ..cost.networks import MeasuredNetwork
from ..utils.errors import StepFailedError
from ..utils.tables import format_size
from .plans import PeakMemory


def measure_on(
    device: torch.device,
    input_channels: int,
    num_classes: int,
    show_progress: Callable[[str], None] = lambda message: None,
) -> PeakMemory:
    """A function that measures the peak memory of training steps, in mixed precision and compiled as nnU-Net trains.

    Args:
        device: a CUDA device.
        input_channels: the channels of the images.
        num_classes: the channels of the logits.
        show_progress: called with one line before each measurement.
    """
    options = MeasureOptions(device, amp=True, compile=True, repeats=0, reference_repeats=0)

    def peak_memory(planned: ConfigurationManager, trainer: str, patch: Sequence[int], batch: int) -> int | None:
        size = format_size(patch)
        show_progress(f"{trainer}: a training step with {batch} patches of {size}")
        case = Case(
            size, planned.network_arch_class_name, planned.network_arch_init_kwargs, tuple(patch), batch,
            input_channels, num_classes, tuple(planned.network_arch_init_kwargs_req_import),
        )  # fmt: skip
        (result,) = measure(case, [MeasuredNetwork(trainer, trainer)], options)
        if result.failure not in (None, "out of memory"):
            raise StepFailedError(f"{trainer} cannot be measured: {result.failure}")
        return None if result.failure else result.peak_reserved

    return peak_memory
