"""nnU-Net's predictor for the attention of a layer, in place of the logits.

nnU-Net's own code moves the window over the image, mirrors, weights with a Gaussian and averages the folds. Only the
network is another one, whose output is the attention.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from ..layer import XAttnRes
from ..stages import XAttnResStages
from ..utils.trained_models import preprocess_case, read_case, uncompiled_network


class AttentionPredictor(nnUNetPredictor):
    """nnU-Net's predictor, which also predicts the attention of the XAttnRes layers.

    Initialise it as nnU-Net's, by `initialize_from_trained_model_folder`.

    Example:
        .. code-block:: python

            predictor = AttentionPredictor(device=torch.device("cuda"))
            predictor.initialize_from_trained_model_folder(folder, use_folds=(0,))
            data, properties = predictor.preprocess(["case_0000.nii.gz"])
            for layer in predictor.layers():
                weights = predictor.predict_attention(data, layer)  # (K+1, *spatial)
                weights = predictor.to_image(weights, properties)  # (K+1, *spatial of the image)
    """

    def layers(self) -> list[str]:
        """The stages with a layer, in the order in which they run: e2, e3, ... of the encoder, d1, ... of the decoder.

        Raises:
            ValueError: if the network has no XAttnRes layers.
        """
        stages = _find_stages(uncompiled_network(self))
        return [_stage_name(stages, int(n)) for n in stages]

    def sources(self, layer: str) -> list[str]:
        """What a layer reads: the earlier stages, oldest first, then its input x."""
        stages = _find_stages(uncompiled_network(self))
        return [*(_stage_name(stages, k) for k in range(_stage_number(stages, layer))), "x"]

    def preprocess(self, files: Sequence[str | Path], previous_stage: Path | None = None) -> tuple[Tensor, dict]:
        """Read a case and preprocess it as nnU-Net does.

        Args:
            files: the files of the channels.
            previous_stage: for a cascade, the segmentation of the previous stage.

        Returns:
            The data (C, *spatial), and nnU-Net's properties of the case.

        Raises:
            UserError: if the case has another number of channels than those of the training.
        """
        image, properties = read_case(self, files)
        return preprocess_case(self, image, properties, previous_stage), properties

    @torch.inference_mode()
    def predict_attention(self, data: Tensor, layer: str) -> Tensor:
        """The attention of a layer over a whole case.

        Args:
            data: a preprocessed case, (C, *spatial).
            layer: one of `layers()`.

        Returns:
            The weights of `sources(layer)`, (K+1, *spatial), which sum to one.

        Note:
            nnU-Net adds predictions up in float16, so the weights have an error of up to about 0.5 %.
        """
        attributes: Any = vars(self)
        network, label_manager = attributes["network"], attributes["label_manager"]
        scale = accumulation_scale(self.tile_step_size, len(self.configuration_manager.patch_size))
        with _AttentionNetwork.of_layer(uncompiled_network(self), layer, scale) as attention:
            try:
                self.network = attention
                # nnU-Net allocates as many channels as there are segmentation heads
                self.label_manager = SimpleNamespace(num_segmentation_heads=len(self.sources(layer)))
                weights = self.predict_logits_from_preprocessed_data(data).float()
            finally:
                self.network, self.label_manager = network, label_manager
        return weights.div_(weights.sum(0, keepdim=True))

    def to_image(self, weights: Tensor, properties: dict) -> np.ndarray:
        """Resample the weights of a preprocessed case to its image, as nnU-Net does with probabilities.

        Args:
            weights: (K+1, *spatial).
            properties: the properties of the case, from `preprocess`.

        Returns:
            (K+1, *spatial of the image), zero outside the box to which nnU-Net has cropped the image.
        """
        forward, backward = self.plans_manager.transpose_forward, self.plans_manager.transpose_backward
        shape = properties["shape_after_cropping_and_before_resampling"]
        spacing = [properties["spacing"][axis] for axis in forward]
        current = list(self.configuration_manager.spacing)
        current = current if len(current) == len(shape) else [spacing[0], *current]
        resampled = self.configuration_manager.resampling_fn_probabilities(weights, shape, current, spacing)
        resampled = np.asarray(resampled, dtype=np.float32)
        image = np.zeros((len(resampled), *properties["shape_before_cropping"]), np.float32)
        image = insert_crop_into_image(image, resampled, properties["bbox_used_for_cropping"])
        return image.transpose([0, *(axis + 1 for axis in backward)])

    def segment(self, data: Tensor, properties: dict) -> np.ndarray:
        """The label map that nnU-Net predicts for a preprocessed case, in the size of its image."""
        logits = self.predict_logits_from_preprocessed_data(data)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self.plans_manager, self.configuration_manager, self.label_manager, properties
        )


class _AttentionComputed(Exception):  # noqa: N818
    """The attention has been computed; the rest of the network need not run."""

    def __init__(self, attention: Tensor):
        self.attention = attention


def accumulation_scale(tile_step_size: float, axes: int) -> float:
    """A factor for the weights, with which nnU-Net can add them up in float16.

    nnU-Net multiplies predictions by a Gaussian, from 10 in the middle of the window to less than 1e-7 in its corners,
    where weights below 1 would vanish in float16. The factor is so small that the sum over all windows stays finite.

    Args:
        tile_step_size: the distance between two windows, relative to their size.
        axes: the number of axes along which the window moves.
    """
    # the sum of a Gaussian whose standard deviation is an eighth of the window; two windows may nearly coincide
    windows = max(2, math.sqrt(2 * math.pi) / 8 / tile_step_size + 1) ** axes
    return 2.0 ** math.floor(math.log2(torch.finfo(torch.float16).max / (10 * windows)))


class _AttentionNetwork(nn.Module):
    """A network whose output is the attention of one of its layers, scaled: (B, C, *S) -> (B, K+1, *S)."""

    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network = network
        self.scale = scale

    @classmethod
    @contextlib.contextmanager
    def of_layer(cls, network: nn.Module, layer: str, scale: float) -> Iterator["_AttentionNetwork"]:
        """The network for a layer; in the body, `network` itself cannot be computed."""
        stages = _find_stages(network)

        def stop(module: nn.Module, inputs: tuple) -> None:
            assert isinstance(module, XAttnRes)
            raise _AttentionComputed(module.attention(*inputs))

        hook = stages[str(_stage_number(stages, layer))].register_forward_pre_hook(stop)
        try:
            yield cls(network, scale)
        finally:
            hook.remove()

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return self.network.load_state_dict(state_dict, *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.network(x)
        except _AttentionComputed as computed:
            return enlarge(computed.attention.float() * self.scale, x.shape[2:])
        raise AssertionError("the layer has not run")


def enlarge(attention: Tensor, size: Sequence[int]) -> Tensor:
    """The attention of a stage at the resolution of the image, where every pixel covers the pixels that it stands for.

    Networks halve the resolution from stage to stage. Those that pad the image have stages that are a little too large,
    of which what lies in the padding is dropped.

    Args:
        attention: (B, K+1, *S).
        size: the size of the image, more than half of what the network pads it to.
    """
    ratios = [2 ** math.ceil(math.log2(s / a)) if s > a else 1 for s, a in zip(size, attention.shape[2:], strict=True)]
    full = [a * ratio for a, ratio in zip(attention.shape[2:], ratios, strict=True)]
    enlarged = F.interpolate(attention, size=full, mode="nearest-exact")
    index: tuple[Any, ...] = (..., *map(slice, size))
    return enlarged[index]


def _find_stages(network: nn.Module) -> XAttnResStages:
    found = [module for module in network.modules() if isinstance(module, XAttnResStages) and len(module)]
    if not found:
        raise ValueError("the network of this model has no XAttnRes layers, so there is no attention to look at")
    return found[0]


def _num_encoder_stages(stages: XAttnResStages) -> int:
    """The decoders of this package have as many stages as the encoder, or one less."""
    return (len(stages.stage_channels) + 1) // 2


def _stage_name(stages: XAttnResStages, n: int) -> str:
    encoder = _num_encoder_stages(stages)
    return f"e{n + 1}" if n < encoder else f"d{n - encoder + 1}"


def _stage_number(stages: XAttnResStages, name: str) -> int:
    names = {_stage_name(stages, int(n)): int(n) for n in stages}
    if name not in names:
        raise ValueError(f"the network has no layer {name}, it has {', '.join(names)}")
    return names[name]
