"""The recipes' losses against MONAI and against their formulas, written voxel by voxel in NumPy."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from torch import nn

from nnunet_xattnres.training.losses import SquaredDiceLoss, SubsetsLoss, WeightedBCEIoULoss


def softmax(x):
    return x.softmax(1)


@pytest.mark.parametrize("size", [(9, 7), (4, 5, 6)])
def test_squared_dice_equals_monais(size):
    torch.manual_seed(0)
    x = torch.randn(3, 4, *size)
    y = torch.randint(4, (3, 1, *size))
    monai = DiceLoss(softmax=True, to_onehot_y=True, squared_pred=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    torch.testing.assert_close(SquaredDiceLoss(softmax)(x, y), monai(x, y))


def test_squared_dice_with_a_mask():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 6, 8), torch.randint(3, (2, 1, 6, 8))
    mask = torch.ones(2, 1, 6, 8, dtype=torch.bool)
    mask[..., 5:] = False
    expected = SquaredDiceLoss(softmax)(x[..., :5], y[..., :5])
    torch.testing.assert_close(SquaredDiceLoss(softmax)(x, y, loss_mask=mask), expected)


def weighted_bce_iou(logit, y, valid):
    """The loss of one image, with loops over the pixels."""
    h, w = y.shape
    weight = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            window = y[max(i - 15, 0) : i + 16, max(j - 15, 0) : j + 16]
            weight[i, j] = (1 + 5 * abs(window.sum() / 31**2 - y[i, j])) * valid[i, j]
    p = 1 / (1 + np.exp(-logit))
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    iou = ((weight * p * y).sum() + 1) / ((weight * (p + y - p * y)).sum() + 1)
    return (weight * bce).sum() / weight.sum() + 1 - iou


@pytest.mark.parametrize("ignore", [None, 2])
def test_weighted_bce_and_iou(ignore):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2, 40, 35)), rng.integers(0, 2 if ignore is None else 3, (2, 1, 40, 35))
    expected = np.mean([
        weighted_bce_iou(x[b, 1] - x[b, 0], (y[b, 0] == 1).astype(float), y[b, 0] != 2) for b in range(2)
    ])  # fmt: skip
    loss = WeightedBCEIoULoss(ignore)(torch.tensor(x), torch.tensor(y))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_difference_of_two_logits_is_the_logit_of_the_softmax():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close((x[:, 1] - x[:, 0]).sigmoid(), x.softmax(1)[:, 1])


class Square(nn.Module):
    def forward(self, x, y):
        return ((x - y) ** 2).mean()


@pytest.mark.parametrize(("subsets", "number"), [("all", 15), ("single and sum", 5)])
def test_subsets_of_the_heads(subsets, number):
    heads, y = torch.randn(4, 2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    chosen = list(chain.from_iterable(combinations(range(4), n) for n in (1, 2, 3, 4)))
    if subsets == "single and sum":
        chosen = [(0,), (1,), (2,), (3,), (0, 1, 2, 3)]
    assert len(chosen) == number
    expected = sum(Square()(heads[list(subset)].sum(0), y) for subset in chosen)
    torch.testing.assert_close(SubsetsLoss(Square(), subsets)(list(heads), [y]), expected)
    torch.testing.assert_close(SubsetsLoss(Square(), subsets, "mean")(list(heads), [y]), expected / number)
