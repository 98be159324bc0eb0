"""Resize against values computed by hand."""

import pytest
import torch

from nnunet_xattnres.ops.resize import downsample, resize, upsample


def test_pooling_takes_the_maximum_of_each_window():
    feature = torch.arange(24.0).view(1, 1, 4, 6)
    assert downsample(feature, (2, 3)).tolist() == [[[[7, 9, 11], [19, 21, 23]]]]


def test_interpolation_is_halfway_between_centres():
    feature = torch.tensor([[[[0.0, 4.0]]]])
    assert upsample(feature, (1, 4)).tolist() == [[[[0, 1, 3, 4]]]]


def test_one_axis_is_pooled_and_the_other_interpolated():
    feature = torch.tensor([[[[0.0, 4.0], [-1.0, 2.0]]]])
    assert resize(feature, (1, 4)).tolist() == [[[[0, 1, 3, 4]]]]


@pytest.mark.parametrize("size", [(5, 7), (3, 5, 7)])
def test_same_size_is_the_same_tensor(size):
    feature = torch.randn(1, 2, *size)
    assert resize(feature, size) is feature
