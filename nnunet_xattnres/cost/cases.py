"""The networks that are measured: as nnU-Net plans them, with their patch and batch sizes."""

import math
import pydoc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..networks.planned_unet import XAttnResUNetMixin
from ..networks.plans import find_replacement
from ..utils.errors import UserError
from ..utils.plans_file import count_input_channels, get_configuration, read_plans

_NORM_VOXELS = 8
_REQUIRES_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")


@dataclass(frozen=True)
class Case:
    """A planned network with its patch size and batch size.

    Attributes:
        name: name of the case, for tables.
        network_class_name: import path of the class of the stock network, as in a plans file.
        arch_kwargs: its arguments, as in a plans file.
        patch_size: in voxels, one value per axis.
        batch_size: the number of patches in a batch.
        input_channels: the number of image channels.
        num_classes: the number of output channels.
        requires_import: the arguments that are import paths, as in a plans file.
    """

    name: str
    network_class_name: str
    arch_kwargs: dict
    patch_size: tuple[int, ...]
    batch_size: int
    input_channels: int = 1
    num_classes: int = 3
    requires_import: tuple[str, ...] = _REQUIRES_IMPORT

    @property
    def configuration_name(self) -> str:
        """The name of the configuration in `plans`."""
        return "2d" if len(self.patch_size) == 2 else "3d_fullres"

    def plans(self) -> dict[str, Any]:
        """The content of a plans file with this network, as a trainer gets it."""
        configuration = {
            "data_identifier": f"nnUNetPlans_{self.configuration_name}",
            "batch_size": self.batch_size,
            "batch_dice": True,
            "patch_size": list(self.patch_size),
            "spacing": [1.0] * len(self.patch_size),
            "normalization_schemes": ["ZScoreNormalization"] * self.input_channels,
            "architecture": {
                "network_class_name": self.network_class_name,
                "arch_kwargs": self.arch_kwargs,
                "_kw_requires_import": list(self.requires_import),
            },
        }
        return {
            "dataset_name": "Dataset000_Cost",
            "plans_name": "nnUNetPlans",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {str(n): {} for n in range(self.input_channels)},
            "configurations": {self.configuration_name: configuration},
            "continue_training": False,
        }

    def dataset_json(self) -> dict[str, Any]:
        """The content of a dataset.json with as many channels and labels; one class is a region."""
        labels: dict[str, Any] = {f"label {n}": n for n in range(1, self.num_classes)}
        regions = {}
        if self.num_classes == 1:
            labels, regions = {"region": [1, 2]}, {"regions_class_order": [1]}
        channels = {str(n): f"channel {n}" for n in range(self.input_channels)}
        return {"labels": {"background": 0, **labels}, **regions, "channel_names": channels, "file_ending": ".nii.gz"}

    def stock(self) -> "Case":
        """The case with the network that nnU-Net plans, where the plans name one of this package (`xattnres plan`)."""
        network = pydoc.locate(self.network_class_name)
        if not (isinstance(network, type) and issubclass(network, XAttnResUNetMixin)):
            return self
        stock = next(base for base in network.__mro__ if not issubclass(base, XAttnResUNetMixin))
        return replace(
            self,
            network_class_name=f"{stock.__module__}.{stock.__qualname__}",
            arch_kwargs={k: v for k, v in self.arch_kwargs.items() if k not in network.allowed_options},
        )

    def small(self) -> "Case":
        """A case to compare results: an eighth of the channels, a small patch, batch size 1, SiLU.

        A smooth nonlinearity, because where rounding changes the sign of a value, the gradient of a LeakyReLU jumps
        (measured in float16: gradients with errors of 9 % instead of 0.6 %).
        """
        factors = [1] * len(self.patch_size)
        for stride in self.arch_kwargs["strides"]:
            factors = [f * s for f, s in zip(factors, stride, strict=True)]
        # in the last stage; over fewer voxels, instance normalisation magnifies rounding
        voxels = [2] * len(factors)
        voxels[-1] = _NORM_VOXELS // math.prod(voxels[:-1])
        changes: dict[str, Any] = {
            "features_per_stage": [max(width // 8, min(width, 8)) for width in self.arch_kwargs["features_per_stage"]]
        }
        if self.arch_kwargs.get("nonlin") is not None:
            changes |= {"nonlin": "torch.nn.SiLU", "nonlin_kwargs": {"inplace": True}}
        return replace(
            self,
            arch_kwargs={**self.arch_kwargs, **changes},
            patch_size=tuple(f * n for f, n in zip(factors, voxels, strict=True)),
            batch_size=1,
        )


def _make_case(dim: int, max_features: int, stages: int, residual: bool, features: int = 32, **sizes: Any) -> Case:
    """A case with the architecture of nnU-Net's default planner, or of its ResEncM preset if `residual`.

    Stage s has min(features * 2^s, max_features) channels.
    """
    network = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    blocks = [1, 3, 4, *[6] * (stages - 3)] if residual else [2] * stages
    return Case(
        network_class_name=f"dynamic_network_architectures.architectures.unet.{network}",
        arch_kwargs={
            "n_stages": stages,
            "features_per_stage": [min(features * 2**s, max_features) for s in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[3] * dim] * stages,
            "strides": [[1] * dim] + [[2] * dim] * (stages - 1),
            "n_blocks_per_stage" if residual else "n_conv_per_stage": blocks,
            "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        **sizes,
    )


TYPICAL_CASES = {
    case.name: case
    for case in (
        _make_case(2, 512, 7, False, name="2d-256", patch_size=(256, 256), batch_size=2),
        _make_case(2, 512, 8, False, name="2d-512", patch_size=(512, 512), batch_size=12),
        _make_case(3, 320, 5, False, name="3d-64", patch_size=(64, 64, 64), batch_size=2),
        _make_case(3, 320, 6, False, name="3d-128", patch_size=(128, 128, 128), batch_size=2),
        _make_case(2, 512, 8, True, name="resencm-2d-512", patch_size=(512, 512), batch_size=12),
        _make_case(3, 320, 6, True, name="resencm-3d-128", patch_size=(128, 128, 128), batch_size=2),
    )
}
"""Typical networks of nnU-Net's default planner and its ResEncM preset, by name."""


def scaling_cases() -> dict[str, list[tuple[int, Case]]]:
    """Series of 2-D networks: stages, width, batch size and patch size vary one at a time.

    Returns:
        (value, case) pairs by the name of the varied quantity.
    """

    def network(axis: str, value: int, stages: int = 5, width: int = 16, batch: int = 2, side: int = 128) -> Case:
        return _make_case(
            2, 16 * width, stages, False, width, name=f"{axis} {value}", patch_size=(side, side), batch_size=batch
        )

    return {
        "stages": [(n, network("stages", n, stages=n)) for n in (3, 4, 5, 6)],
        "channels of the first stage": [(n, network("width", n, width=n)) for n in (8, 16, 32)],
        "batch size": [(n, network("batch", n, batch=n)) for n in (1, 2, 4, 8)],
        "side of the patch": [(n, network("side", n, side=n)) for n in (64, 128, 256)],
    }


def pixel_cases(sides: Sequence[int] = (64, 128, 256, 512)) -> list[tuple[int, Case]]:
    """2-D networks of five stages from 16 channels whose patch grows, with one image.

    Returns:
        (number of pixels, case) pairs.
    """
    return [
        (side**2, _make_case(2, 256, 5, False, 16, name=f"{side}x{side}", patch_size=(side, side), batch_size=1))
        for side in sides
    ]


def from_plans(path: Path, configuration: str, num_classes: int = 3) -> Case:
    """The case of a configuration in a plans file.

    Args:
        path: the plans file.
        configuration: the name of the configuration, such as "2d".
        num_classes: the number of output channels, which plans files do not have.

    Raises:
        UserError: if the file is no plans file, does not have the configuration, or has a network without a
            counterpart with XAttnRes.
    """
    plans = read_plans(path)
    planned = get_configuration(plans, configuration, path)
    try:
        find_replacement(planned.network_arch_class_name)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Case(
        name=f"{plans.plans.get('dataset_name', path.stem)} {configuration}",
        network_class_name=planned.network_arch_class_name,
        arch_kwargs=planned.network_arch_init_kwargs,
        requires_import=tuple(planned.network_arch_init_kwargs_req_import),
        patch_size=tuple(planned.patch_size),
        batch_size=planned.batch_size,
        input_channels=count_input_channels(plans),
        num_classes=num_classes,
    )
