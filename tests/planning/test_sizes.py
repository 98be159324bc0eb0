"""Patch and batch sizes that fit a budget are the largest of their kind, and no larger than planned."""

import itertools
import math

import pytest

from nnunet_xattnres.planning.sizes import MIN_EDGE_LENGTH, fit_sizes


def voxels(patch):
    return math.prod(patch)


def within(budget):
    return lambda patch, batch: voxels(patch) * batch <= budget


@pytest.mark.parametrize("batch", [1, 2, 5, 12])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.49, 0.5, 0.77, 1.0, 1.5])
@pytest.mark.parametrize(("patch", "strides"), [([64, 96], [8, 16]), ([32, 64, 48], [2, 8, 8])])
def test_the_result_fits_and_nothing_larger_would(patch, strides, batch, share):
    budget = share * voxels(patch) * batch
    fitted = fit_sizes(patch, batch, within(budget), strides, patch)
    smallest = [MIN_EDGE_LENGTH * stride for stride in strides]
    if fitted is None:
        assert voxels(smallest) * min(batch, 2) > budget
        return
    new_patch, new_batch = fitted
    assert voxels(new_patch) * new_batch <= budget
    assert all(new <= old and new % s == 0 for new, old, s in zip(new_patch, patch, strides, strict=True))
    assert min(batch, 2) <= new_batch <= batch
    if new_batch < batch:
        assert voxels(new_patch) * (new_batch + 1) > budget
    if new_patch != patch:  # the last step was necessary: some patch of one stride more does not fit
        larger = [
            [side + s * (n == axis) for n, (side, s) in enumerate(zip(new_patch, strides, strict=True))]
            for axis in range(len(patch))
        ]
        assert any(voxels(p) * min(batch, 2) > budget for p in larger)


def test_the_axis_that_is_longest_relative_to_the_images_becomes_shorter():
    patches = [fit_sizes([64, 64], 2, within(2 * 64 * 56), [8, 8], image)[0] for image in ([64, 128], [128, 64])]
    assert patches == [[56, 64], [64, 56]]


def test_an_axis_that_is_short_already_keeps_its_side():
    for budget in itertools.count(2 * 16 * 64, -256):
        fitted = fit_sizes([16, 64], 2, within(budget), [8, 8], [16, 64])
        if fitted is None:
            break
        assert fitted[0][0] == 16
    assert budget < 2 * 16 * 32
