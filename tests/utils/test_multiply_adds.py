"""Multiply-adds of layers and of attention, against sums by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_xattnres.utils.multiply_adds import count_multiply_adds


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)

    def forward(self, image):
        tokens = self.linear(self.conv(image).flatten(2).transpose(1, 2)).unsqueeze(1)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_and_attention(device):
    batch, pixels = 2, 4 * 6
    with torch.device(device):
        counted = count_multiply_adds(Attention(), torch.zeros(batch, 3, 4, 6))
    assert counted.layers == batch * pixels * (3 * 8 * 9 + 8 * 8)
    assert counted.attention == batch * pixels**2 * (8 + 8)
