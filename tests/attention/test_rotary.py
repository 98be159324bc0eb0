"""Rotary positions: agreement with the literal rotation, and attention that depends on differences alone."""

import itertools

import pytest
import torch

from nnunet_xattnres.attention import sema_reference
from nnunet_xattnres.attention.rotary import rotate, rotation_table


def rotated(x, window, heads, offset=0):
    """The reference for one window whose first token is at `offset`, as (1, heads, L, C / heads)."""
    position = torch.tensor(list(itertools.product(*map(range, window)))) + offset
    return sema_reference.rotate(x, position).unflatten(-1, (heads, -1)).transpose(1, 2)


@pytest.mark.parametrize(
    ("window", "channels", "heads"),
    [((7, 7), 16, 2), ((3, 2), 10, 1), ((2, 3, 4), 16, 4), ((2, 2, 2), 4, 1), ((3, 3), 2, 1)],
)
def test_rotation(window, channels, heads):
    torch.manual_seed(0)
    length = torch.tensor(window).prod()
    x = torch.randn(1, length, channels, dtype=torch.float64)
    table = rotation_table(window, channels, heads, x.dtype, x.device)
    by_head = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    # two windows in a row
    actual = rotate(torch.cat([by_head, by_head], 1), *table)
    torch.testing.assert_close(actual[:, :heads], rotated(x, window, heads))
    assert torch.equal(actual[:, :heads], actual[:, heads:])


def test_products_depend_on_the_difference_of_the_positions_alone():
    q, k = torch.randn(2, 1, 12, 16, dtype=torch.float64)
    products = [
        rotated(q, (3, 4), 2, offset) @ rotated(k, (3, 4), 2, offset).mT
        for offset in (torch.tensor([0, 0]), torch.tensor([30, 44]))
    ]
    torch.testing.assert_close(*products)
