"""New plans from existing ones: the same data, the network of one of this package's trainers."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from ..networks.plans import planned_architecture, planned_network
from ..training.names import PREFIX, TrainerName, parse
from ..training.patches import planned_strides
from ..training.planned import PlannedNetworkTrainer
from ..training.trainer_classes import trainer_class
from ..utils.errors import UserError
from .sizes import fit_sizes

PeakMemory: TypeAlias = Callable[[ConfigurationManager, str, Sequence[int], int], int | None]
"""Measures the bytes that a training takes at most, by planned configuration, trainer, patch size and batch size; None
if they cannot be allocated."""

REPLACED = ("architecture", "patch_size", "batch_size")
"""The entries of a configuration that change."""


@dataclass(frozen=True)
class Change:
    """What changes in one configuration.

    Attributes:
        configuration: its name, such as "2d".
        patch_size: the patch size in voxels, as planned and as it is now.
        batch_size: the batch size, as planned and as it is now.
        parameters: the number of parameters of the planned network and of the new one.
        memory_ratio: the memory of a batch, estimated or measured, relative to that of the planned network.
    """

    configuration: str
    patch_size: tuple[list[int], list[int]]
    batch_size: tuple[int, int]
    parameters: tuple[int, int]
    memory_ratio: float


def network_trainer(name: str) -> tuple[TrainerName, type[PlannedNetworkTrainer]]:
    """The trainer whose network a plans file can have.

    Raises:
        UserError: if there is no such trainer, if its network does not derive from the planned one, or if its name has
            a recipe or a length, which plans do not have.
    """
    try:
        parts, cls = parse(name), trainer_class(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not issubclass(cls, PlannedNetworkTrainer):
        raise UserError(
            f"{name} trains a network of its own, {cls.network_name}, which does not derive from a planned one: train "
            "it with -tr"
        )
    if parts.recipe or parts.epochs is not None:
        network = TrainerName(parts.network, parts.routing)
        raise UserError(
            f"{name} has a recipe or a length, but plans only name a network: take {network}, and choose the training "
            "with nnUNetv2_train -tr"
        )
    return parts, cls


def default_plans_name(plans_name: str, parts: TrainerName) -> str:
    """The name of the new plans.

    Example:
        >>> default_plans_name("nnUNetPlans", parse("nnUNetTrainerXAttnResGated"))
        'nnUNetPlansXAttnResGated'
    """
    return plans_name + str(parts).removeprefix(PREFIX)


def make_plans(
    plans: dict[str, Any],
    trainer: type[PlannedNetworkTrainer],
    plans_name: str,
    input_channels: int,
    num_classes: int,
    keep_sizes: bool = False,
    peak_memory: PeakMemory | None = None,
) -> tuple[dict[str, Any], list[Change]]:
    """Make plans with the network of a trainer from other plans.

    Everything but the networks, patch sizes and batch sizes is the same, also the identifiers of the preprocessed data,
    so both plans share that data. Patches and batches are as large as planned where the network then takes no more
    memory than the planned one, by measurement or else by nnU-Net's own estimate, and smaller elsewhere.

    Args:
        plans: the content of the plans file; it is not changed.
        trainer: the trainer whose network the new plans have.
        plans_name: the name of the new plans.
        input_channels: the channels of the images.
        num_classes: the channels of the logits.
        keep_sizes: keep patch and batch sizes, whatever memory the network takes.
        peak_memory: measures the memory; None for the estimate.

    Returns:
        The new plans, and what has changed in them, by configuration.

    Raises:
        UserError: if a configuration has a network that cannot be replaced, or the new network does not fit.
    """
    new_plans = deepcopy(plans) | {"plans_name": plans_name}
    manager = PlansManager(plans)
    changes = []
    for name, own in new_plans["configurations"].items():
        if "inherits_from" in own and not set(REPLACED) & set(own):
            continue  # it inherits what is new
        planned = manager.get_configuration(name)
        try:
            change, replaced = _replace(name, planned, trainer, input_channels, num_classes, keep_sizes, peak_memory)
            own |= replaced
            trainer.check_configuration(ConfigurationManager(planned.configuration | replaced))
        except ValueError as error:
            reason = str(error).removeprefix(f"{trainer.__name__}: ")
            raise UserError(f"configuration {name}: {reason}") from None
        changes.append(change)
    return new_plans, changes


def _replace(
    name: str,
    planned: ConfigurationManager,
    trainer: type[PlannedNetworkTrainer],
    input_channels: int,
    num_classes: int,
    keep_sizes: bool,
    peak_memory: PeakMemory | None,
) -> tuple[Change, dict[str, Any]]:
    """What changes in a configuration, and its new entries."""
    if planned_network(planned.network_arch_class_name):
        raise ValueError("these plans have a network of this package already: name the plans that nnU-Net has made")
    architecture = planned_architecture(planned, trainer.networks, **trainer.options())
    old = _build(planned.configuration["architecture"], input_channels, num_classes)
    new = _build(architecture, input_channels, num_classes)
    patch_size, batch_size = list(planned.patch_size), planned.batch_size

    @cache
    def memory(patch: tuple[int, ...], batch: int) -> float:
        """The memory of the new network relative to that of the planned one at the planned sizes."""
        if peak_memory is None:
            budget = old.compute_conv_feature_map_size(patch_size) * batch_size
            return float(new.compute_conv_feature_map_size(patch) * batch / budget)
        peak = peak_memory(planned, trainer.__name__, patch, batch)
        return math.inf if peak is None else peak / planned_peak

    planned_peak = 0
    if peak_memory is not None:
        measured = peak_memory(planned, PREFIX, patch_size, batch_size)
        if measured is None:
            raise ValueError("the planned network does not fit into the memory of this GPU, so nothing can be measured")
        planned_peak = measured
    patch, batch = patch_size, batch_size
    if not keep_sizes:
        fitted = fit_sizes(
            patch_size, batch_size, lambda patch, batch: memory(tuple(patch), batch) <= 1, planned_strides(planned),
            planned.median_image_size_in_voxels[-len(patch_size):],
        )  # fmt: skip
        if fitted is None:
            raise ValueError(
                f"patches of {' x '.join(map(str, patch_size))} cannot become small enough for the memory that was "
                "planned: take plans with a larger -gpu_memory_target, or keep the sizes with --keep-sizes"
            )
        patch, batch = fitted
    change = Change(
        name,
        (patch_size, patch),
        (batch_size, batch),
        (_count_parameters(old), _count_parameters(new)),
        memory(tuple(patch), batch),
    )
    return change, {"architecture": architecture, "patch_size": patch, "batch_size": batch}


def _build(architecture: dict[str, Any], input_channels: int, num_classes: int) -> Any:
    with torch.device("meta"):  # allocates no memory
        return get_network_from_plans(
            architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
            input_channels, num_classes, allow_init=False,
        )  # fmt: skip


def _count_parameters(network: torch.nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
