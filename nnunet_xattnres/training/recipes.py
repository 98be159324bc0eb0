"""The training recipes, as mix-ins for any trainer of this package, named as in `names.py`.

In the paper's recipes, optimiser, schedule, loss and number of epochs are those of the paper (arXiv 2604.03297, Sec.
4.2, which follows EMCAD). Everything else is nnU-Net's: resampling; normalisation (the paper has ImageNet's); patch
and batch size of the plans (the paper has 224 and 6, or 352 and 16); oversampling of the foreground; augmentation (the
paper has rotations and flips); epochs of 250 batches, whatever the size of the data set; mixed precision on CUDA;
clipping of the gradient's norm at 12; deep supervision of the planned networks; the final weights (the paper takes the
best ones on the validation set); and prediction in overlapping patches with mirroring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch.nn.functional as F
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW

from ..layer import XAttnRes
from .losses import SquaredDiceLoss, WeightedBCEIoULoss
from .names import RECIPES
from .patches import check_scales

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    from .trainer import XAttnResTrainer as _Trainer
else:
    _Trainer = object  # the recipes are mix-ins; the other base class of a trainer is an XAttnResTrainer


class _AdamW(_Trainer):
    """AdamW with a constant learning rate of 1e-4 and weight decay 1e-4."""

    subset_reduction = "sum"  # as EMCAD's own training does

    def configure_optimizers(self):
        self.initial_lr = self.weight_decay = 1e-4
        optimizer = AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, exponent=0)


class LayersOnly(_Trainer):
    """nnU-Net's training of the XAttnRes layers and the segmentation heads; all other weights are frozen. Ours."""

    recipe = RECIPES["LayersOnly"].label

    def configure_optimizers(self):
        layers = (module for module in self.network.modules() if isinstance(module, XAttnRes))
        trained = {id(parameter) for layer in layers for parameter in layer.parameters()}
        # before DistributedDataParallel is told which parameters have gradients
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(id(parameter) in trained or ".seg_layers." in name)
        return super().configure_optimizers()

    def on_train_start(self) -> None:
        """As nnU-Net's; refuse a training that would keep random weights.

        Raises:
            RuntimeError: if neither a checkpoint nor pretrained weights have been loaded.
        """
        if not self.was_initialized:  # nnU-Net initialises the network before it loads weights
            raise RuntimeError(
                f"{type(self).__name__} keeps the weights of a trained network, but none have been loaded: start with "
                "--c or -pretrained_weights from what xattnres warmstart has written"
            )
        super().on_train_start()

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's, but batch normalisations keep their running statistics."""
        super().on_train_epoch_start()
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


class PaperMulticlass(_AdamW):
    """The recipe for Synapse: AdamW, 0.3 cross-entropy + 0.7 Dice over all classes, 300 epochs."""

    recipe = RECIPES["PaperMulticlass"].label
    epochs = RECIPES["PaperMulticlass"].epochs

    @classmethod
    def check_labels(cls, labels: LabelManager) -> None:
        super().check_labels(labels)
        if labels.has_regions:
            raise ValueError(
                f"{cls.__name__}: the paper's multi-class recipe needs labels that exclude each other, but "
                "dataset.json declares regions: use the same trainer without _PaperMulticlass"
            )

    def output_loss(self) -> nn.Module:
        return DC_and_CE_loss(
            {"smooth": 1e-5, "ddp": self.is_ddp}, {}, weight_ce=0.3, weight_dice=0.7,
            ignore_label=self.label_manager.ignore_label, dice_class=SquaredDiceLoss,
        )  # fmt: skip


class PaperBinary(_AdamW):
    """The recipe for polyps and skin: AdamW, weighted BCE + IoU, three scales, gradients clipped to +-0.5, 200 epochs.

    Every batch makes one training step at each of the scales 0.75, 1 and 1.25. The step at 1.25 needs about 1.6 times
    the memory that nnU-Net planned for. The planned network takes multiples of its total stride, so its patches are
    rounded to these: a side of 6 multiples gives the scales 0.67, 1 and 1.33. Sides below 3 multiples are refused.
    """

    recipe = RECIPES["PaperBinary"].label
    epochs = RECIPES["PaperBinary"].epochs
    dims = RECIPES["PaperBinary"].dims
    subsets = "single and sum"
    scales: ClassVar[tuple[float, ...]] = (0.75, 1.0, 1.25)

    @classmethod
    def check_patches(cls, configuration: ConfigurationManager) -> None:
        super().check_patches(configuration)
        check_scales(cls.patch_sizes(configuration), cls.scales)

    @classmethod
    def patch_sizes(cls, configuration: ConfigurationManager) -> list[list[int]]:
        return [cls.scaled_size(configuration, configuration.patch_size, scale) for scale in cls.scales]

    @classmethod
    def scaled_size(cls, configuration: ConfigurationManager, size: Sequence[int], scale: float) -> list[int]:
        """The size of scaled patches, which is rounded to multiples of the strides where the network needs them."""
        strides = [1] * len(size) if cls.any_size else cls.total_strides(configuration)
        return [max(1, round(scale * side / stride)) * stride for side, stride in zip(size, strides, strict=True)]

    @classmethod
    def check_labels(cls, labels: LabelManager) -> None:
        super().check_labels(labels)
        if labels.has_regions or len(labels.foreground_labels) != 1:
            declared = "regions" if labels.has_regions else f"{len(labels.foreground_labels)} foreground labels"
            other = "without _PaperBinary" if labels.has_regions else "with _PaperMulticlass instead of _PaperBinary"
            raise ValueError(
                f"{cls.__name__}: the paper's binary recipe needs one foreground label, but dataset.json declares "
                f"{declared}: use the same trainer {other}"
            )

    def output_loss(self) -> nn.Module:
        return WeightedBCEIoULoss(self.label_manager.ignore_label)

    def configure_optimizers(self):
        optimizer, scheduler = super().configure_optimizers()
        parameters = list(self.network.parameters())
        # between backward pass and optimiser step nnU-Net has no other hook; gradients are unscaled by then
        optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_value_(parameters, 0.5))
        return optimizer, scheduler

    def _do_i_compile(self) -> bool:
        """Never: every one of the three patch sizes would make torch.compile compile the network again."""
        return False

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's training step, once per scale."""
        losses = [super(PaperBinary, self).train_step(self._scaled(batch, scale))["loss"] for scale in self.scales]
        return {"loss": np.mean(losses)}

    def _scaled(self, batch: dict, scale: float) -> dict:
        data, target = batch["data"].to(self.device), batch["target"]
        size = self.scaled_size(self.configuration_manager, data.shape[2:], scale)
        if size == list(data.shape[2:]):
            return batch
        factors = [new / old for new, old in zip(size, data.shape[2:], strict=True)]

        def scale_labels(labels: Tensor) -> Tensor:
            new = [round(side * factor) for side, factor in zip(labels.shape[2:], factors, strict=True)]
            return F.interpolate(labels.to(self.device, data.dtype), size=new, mode="nearest-exact").to(labels.dtype)

        return {
            "data": F.interpolate(data, size=size, mode="bilinear", align_corners=False),
            "target": [scale_labels(t) for t in target] if isinstance(target, list) else scale_labels(target),
        }
