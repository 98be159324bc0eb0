"""Padding repeats the last row at the end of every axis, and cropping removes it."""

import numpy as np
import pytest
import torch

from nnunet_xattnres.networks.padding import crop, pad_to_multiple


@pytest.mark.parametrize("size", [(5, 8), (7, 1), (3, 5, 9)])
def test_against_numpy(size):
    x = torch.randn(2, 3, *size)
    padded = pad_to_multiple(x, 4)
    widths = [(0, 0), (0, 0), *((0, -side % 4) for side in size)]
    np.testing.assert_array_equal(padded.numpy(), np.pad(x.numpy(), widths, mode="edge"))
    assert torch.equal(crop(padded, size), x)


def test_nothing_to_do():
    x = torch.randn(1, 2, 8, 4)
    assert pad_to_multiple(x, 4) is x
