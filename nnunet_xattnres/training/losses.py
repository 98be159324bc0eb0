"""The losses of the paper's recipes, which are those of EMCAD."""

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn


class SquaredDiceLoss(nn.Module):
    r"""Soft Dice loss with squared denominators, pooled over the batch and averaged over all classes.

    .. math:: 1 - \frac1N \sum_c \frac{2 \sum_i p_{ci} y_{ci} + s}{\sum_i p_{ci}^2 + \sum_i y_{ci} + s}

    Args:
        apply_nonlin: function from logits to probabilities; None if the input holds probabilities.
        smooth: the constant s.
        ddp: pool over all processes of DistributedDataParallel.

    Shapes:
        logits (B, N, *spatial), labels (B, 1, *spatial), optional mask (B, 1, *spatial), which is 1 for the voxels that
        count -> scalar.
    """

    def __init__(self, apply_nonlin: Callable | None = None, smooth: float = 1e-5, ddp: bool = False):
        super().__init__()
        self.apply_nonlin, self.smooth, self.ddp = apply_nonlin, smooth, ddp

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        p = (self.apply_nonlin(x) if self.apply_nonlin else x).float()
        onehot = torch.zeros_like(p).scatter_(1, y.long(), 1)
        if loss_mask is not None:
            p, onehot = p * loss_mask, onehot * loss_mask
        axes = (0, *range(2, p.ndim))
        sums = torch.stack([(p * onehot).sum(axes), (p * p).sum(axes), onehot.sum(axes)])
        if self.ddp:
            sums = AllGatherGrad.apply(sums).sum(0)
        intersection, predicted, true = sums
        return 1 - ((2 * intersection + self.smooth) / (predicted + true + self.smooth)).mean()


class WeightedBCEIoULoss(nn.Module):
    r"""Binary cross-entropy + IoU loss, both with more weight at boundaries, averaged over the batch; 2-D.

    .. math:: w = 1 + 5\,|\text{avgpool}_{31}(y) - y|, \quad
        \frac{\sum w\,\text{BCE}(p, y)}{\sum w} + 1 - \frac{\sum w\,p\,y + 1}{\sum w\,(p + y - p\,y) + 1}

    Args:
        ignore_label: label whose voxels get no weight; None if there is none.

    Shapes:
        logits (B, 2, H, W) of background and foreground, whose difference is the logit of p; labels y (B, 1, H, W) ->
        scalar.
    """

    def __init__(self, ignore_label: int | None = None):
        super().__init__()
        self.ignore_label = ignore_label

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logit = (x[:, 1:] - x[:, :1]).float()
        mask = (y == 1).float()
        # a separable filter: 62 terms per pixel instead of 961
        mean = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))
        w = 1 + 5 * (mean - mask).abs()
        if self.ignore_label is not None:
            w = w * (y != self.ignore_label)
        p = logit.sigmoid()
        axes = (1, 2, 3)
        bce = F.binary_cross_entropy_with_logits(logit, mask, reduction="none")
        bce = (w * bce).sum(axes) / w.sum(axes).clamp_min(1e-8)
        intersection = (w * p * mask).sum(axes)
        union = (w * (p + mask)).sum(axes) - intersection
        return (bce + 1 - (intersection + 1) / (union + 1)).mean()


class SubsetsLoss(nn.Module):
    """EMCAD's deep supervision: a loss applied to the summed logits of every subset of the heads.

    Args:
        loss: the loss of one output.
        subsets: "all" for all non-empty subsets, 15 of 4 heads, as EMCAD has it for several classes; "single and sum"
            for each head and the sum of all, 5 of 4 heads, as EMCAD has it for two classes.
        reduction: "sum" or "mean" over the subsets.

    Shapes:
        outputs: logits (B, N, *spatial) of every head; targets: one tensor (B, 1, *spatial) -> scalar.
    """

    def __init__(self, loss: nn.Module, subsets: str = "all", reduction: str = "sum"):
        super().__init__()
        self.loss, self.subsets, self.reduction = loss, subsets, reduction

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        (target,) = targets
        sizes = range(1, len(outputs) + 1) if self.subsets == "all" else (1, len(outputs))
        losses = torch.stack(
            [self.loss(sum(subset), target) for size in sizes for subset in combinations(outputs, size)]
        )
        return losses.sum() if self.reduction == "sum" else losses.mean()
