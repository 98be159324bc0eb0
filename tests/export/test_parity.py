"""Patches of preprocessed cases, and the differences that a comparison reports."""

import pytest
import torch
from torch import nn

from nnunet_xattnres.export.parity import compare, cut_patches


@pytest.mark.parametrize(("shape", "patch"), [((1, 3, 40, 30), (16, 24)), ((2, 20, 22, 24), (8, 8, 16))])
def test_patches_are_parts_of_the_case(shape, patch):
    data = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape) + 1
    patches = cut_patches(data, patch, 3)
    assert patches.shape == (3, shape[0], *patch)
    assert len({float(p[0].flatten()[0]) for p in patches}) == 3
    for cut in patches:
        start = (data[0] == cut[0].flatten()[0]).nonzero()[0].tolist()
        index = [slice(n, n + side) for n, side in zip(start[-len(patch) :], patch, strict=True)]
        assert torch.equal(cut, data[(slice(None), *start[: -len(patch)], *index)])


def test_small_cases_are_padded():
    patches = cut_patches(torch.ones(1, 4, 10, 6), (8, 8), 2)
    assert patches.shape == (2, 1, 8, 8) and torch.equal(patches[..., :6], torch.ones(2, 1, 8, 6))
    assert not patches[..., 6:].any()


def test_differences():
    network = nn.Identity()
    image = torch.zeros(2, 2, 4, 4)
    image[:, 0] = -8

    def graph(x):
        y = x.clone()
        y[0, 0, 0, 0] = 2  # another label, and a difference of 10
        return y

    parity = compare(network, graph, [image, image[:1, :, :2]])
    assert parity.batches == [[2, 2, 4, 4], [1, 2, 2, 4]]
    assert (parity.largest_logit, parity.largest_difference) == (8, 10)
    assert parity.relative_difference == 1.25 and parity.other_labels == 2 / 40
    assert compare(network, network, [image]).relative_difference == 0


def test_a_graph_that_gives_no_number_is_not_equal():
    image = torch.ones(1, 1, 2, 2)
    assert not compare(nn.Identity(), lambda x: x * torch.nan, [image]).relative_difference <= 1


def test_regions_overlap():
    image = torch.tensor([[[[3.0, 3.0]], [[1.0, 1.0]]]])  # two regions in two pixels
    changed = torch.tensor([[[[3.0, 3.0]], [[-1.0, 1.0]]]])
    assert compare(nn.Identity(), lambda x: changed, [image]).other_labels == 0
    assert compare(nn.Identity(), lambda x: changed, [image], regions=True).other_labels == 0.5
