"""The layout of windows: what is in a window, what is padding, and the way back."""

import pytest
import torch

from nnunet_xattnres.attention.windows import from_windows, pad_tokens, real_keys, to_windows

CASES = [((5, 7), (3, 2)), ((4, 6), (2, 3)), ((2, 3, 5), (2, 2, 2)), ((7, 7, 7), (7, 7, 7))]


@pytest.mark.parametrize(("size", "window"), CASES)
def test_windows_hold_their_tokens(size, window):
    """Every token says its position in the image; -1 is padding."""
    heads, batch = 2, 3
    position = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), -1) + 1
    tokens = torch.cat([position, position], -1).expand(batch, *size, -1)
    counts = [-(-side // w) for side, w in zip(size, window, strict=True)]
    windows = to_windows(pad_tokens(tokens, window), window, heads) - 1
    mask = real_keys(size, window, heads, batch, tokens.device)
    rows = torch.cartesian_prod(*map(torch.arange, counts[:-1])).view(-1, len(size) - 1)
    assert windows.shape[0] == batch * len(rows) and windows.shape[1] == counts[-1] * heads
    for i, row in enumerate(rows.repeat(batch, 1)):
        for j in range(counts[-1] * heads):
            real = mask[i, j, 0]
            assert real.any()
            assert (windows[i, j, ~real] == -1).all()
            inside = windows[i, j, real] // torch.tensor(window)
            assert (inside == torch.tensor([*row, j // heads])).all()
    assert mask.sum() == batch * heads * torch.tensor(size).prod()


@pytest.mark.parametrize(("size", "window"), CASES)
def test_the_way_back(size, window):
    tokens = torch.randn(2, *size, 6)
    windows = to_windows(pad_tokens(tokens, window), window, 3, torch.float64)
    assert windows.dtype == torch.float64 and windows.is_contiguous()
    assert torch.equal(from_windows(windows, window, size, 3), tokens.double())
