"""The multiply-adds of a network, counted on shapes without values."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class MultiplyAdds(NamedTuple):
    """Multiply-adds of a forward pass.

    Attributes:
        layers: those of convolutions and linear layers, the projections of XAttnRes among them.
        attention: those of the products of queries with keys and of weights with values.
    """

    layers: int
    attention: int


def count_multiply_adds(network: nn.Module, image: Tensor) -> MultiplyAdds:
    """Count the multiply-adds of a forward pass (torch.utils.flop_counter, halved).

    Args:
        network: the network.
        image: its input, (B, C, *spatial); both may be on "meta", where nothing is computed.
    """
    # of PyTorch's implementations of attention, this is the one whose operations are counted on every device
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    flops = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for operation, count in flops.items() if "attention" in operation or "bmm" in operation)
    return MultiplyAdds((sum(flops.values()) - attention) // 2, attention // 2)
