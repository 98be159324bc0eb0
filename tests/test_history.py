"""History: a sequence of features whose pooled copies equal adaptive max pooling and are made once."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

import nnunet_xattnres
from nnunet_xattnres import History
from nnunet_xattnres import history as module

ADAPTIVE = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}

# the sizes of the features, then the sizes to which they are pooled, one after the other
CASES = {
    "halves": ([(16, 16), (8, 8), (4, 4)], [(16, 16), (8, 8), (4, 4), (2, 2)]),
    "up again": ([(16, 16), (8, 8), (4, 4)], [(8, 8), (4, 4), (8, 8), (16, 16)]),
    "coarse first": ([(12, 12), (6, 6)], [(3, 3), (6, 6), (12, 12)]),
    "odd sizes that divide": ([(27, 45), (9, 15)], [(9, 15), (3, 5), (1, 5)]),
    "odd sizes that do not": ([(7, 11), (5, 9)], [(4, 6), (2, 3), (1, 2)]),
    "odd sizes that divide later": ([(15, 13)], [(8, 6), (5, 13), (4, 3), (4, 1)]),
    "one axis alone": ([(6, 16), (16, 6)], [(6, 8), (8, 6), (3, 6)]),
    "smaller features": ([(2, 3), (4, 12), (12, 4)], [(8, 8), (6, 6), (3, 2)]),
    "3-D": ([(8, 8, 8), (4, 8, 8)], [(4, 4, 4), (2, 2, 2), (4, 2, 1)]),
    "3-D anisotropic": ([(5, 16, 12), (5, 8, 6)], [(5, 8, 6), (5, 4, 3), (3, 2, 2)]),
}


def features(sizes, requires_grad=False):
    """Features of distinct values, each with another number of channels."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for width, size in enumerate(sizes, start=2):
        count = 2 * width * torch.Size(size).numel()
        values = torch.randperm(count, generator=generator).double().view(2, width, *size) / count
        result.append(values.requires_grad_(requires_grad))
    return result


def pooled_directly(feature, size):
    """PyTorch's adaptive max pooling of every axis that is too long."""
    target = [min(s, t) for s, t in zip(feature.shape[2:], size, strict=True)]
    return ADAPTIVE[len(size)](feature, target)


@pytest.fixture
def poolings(monkeypatch):
    """The sizes before and after every pooling, in order."""
    made = []

    def max_pool(features, sizes, original=module.max_pool):
        made.extend((tuple(f.shape[2:]), tuple(size)) for f, size in zip(features, sizes, strict=True))
        return original(features, sizes)

    monkeypatch.setattr(module, "max_pool", max_pool)
    return made


def test_is_a_sequence():
    first, second, third = features([(8, 8), (4, 4), (2, 2)])
    history = History()
    assert isinstance(history, Sequence)
    assert len(history) == 0
    for feature in (first, second, third):
        history.append(feature)
    assert len(history) == 3
    assert history[0] is first
    assert history[-1] is third
    for taken, expected in (
        (history[:2], [first, second]),
        (history[-2::-1], [second, first]),
        (history[5:], []),
        (list(history), [first, second, third]),
    ):
        assert len(taken) == len(expected)
        assert all(a is b for a, b in zip(taken, expected, strict=True))
    with pytest.raises(IndexError):
        history[3]


def test_first_features():
    inputs = features([(8, 8), (4, 4)])
    history = History(iter(inputs))
    inputs.append(inputs[0])
    assert len(history) == 2
    assert history[1] is inputs[1]


def test_is_public():
    assert nnunet_xattnres.History is module.History


def test_pooling_does_not_change_the_sequence():
    inputs = features([(8, 8), (4, 4)])
    history = History(inputs)
    history.pooled((2, 2))
    assert [h is g for h, g in zip(history, inputs, strict=True)] == [True, True]


@pytest.mark.parametrize(("sizes", "pooled_sizes"), CASES.values(), ids=CASES.keys())
def test_copies_equal_adaptive_max_pooling(sizes, pooled_sizes):
    inputs = features(sizes)
    history = History(inputs)
    for size in pooled_sizes:
        copies = history.pooled(size)
        assert len(copies) == len(inputs)
        for copy, feature in zip(copies, inputs, strict=True):
            assert torch.equal(copy, pooled_directly(feature, size))


def test_a_feature_that_is_small_enough_is_not_copied(poolings):
    inputs = features([(8, 8), (4, 8), (2, 1)])
    assert all(copy is feature for copy, feature in zip(History(inputs).pooled((8, 8)), inputs, strict=True))
    assert poolings == []


def test_copies_are_shared(poolings):
    history = History(features([(16, 16), (8, 4)]))
    first = history.pooled((8, 8))
    history.append(features([(32, 8)])[0])
    history.pooled((4, 4))
    second = history.pooled((8, 8))
    assert len(second) == 3
    assert all(a is b for a, b in zip(first, second, strict=False))
    # other sizes with the same pooled size
    assert history.pooled((8, 9))[1] is history[1]
    assert history.pooled((16, 4))[1] is history[1]
    assert len(set(poolings)) == len(poolings)


@pytest.mark.parametrize(
    ("feature", "pooled_sizes", "expected"),
    [
        ((16,), [16, 8, 4, 2], [(16, 8), (8, 4), (4, 2)]),
        ((16,), [4, 8, 2, 4, 8], [(16, 4), (16, 8), (4, 2)]),
        # 8 does not divide 12, so it is pooled from 12 anyway; 4 divides 8, 3 divides 6 and 2 divides 4
        ((12,), [8, 6, 4, 3, 2], [(12, 8), (12, 6), (8, 4), (6, 3), (4, 2)]),
        ((7,), [4, 2, 3, 1], [(7, 4), (4, 2), (7, 3), (2, 1)]),
        ((3,), [8, 4, 3], []),
    ],
)
def test_each_copy_is_made_once_from_the_smallest_multiple(poolings, feature, pooled_sizes, expected):
    history = History(features([feature * 2]))
    for size in (*pooled_sizes, *pooled_sizes):
        history.pooled((size, size))
    assert poolings == [((source,) * 2, (target,) * 2) for source, target in expected]


def test_every_axis_has_to_be_divisible(poolings):
    history = History(features([(12, 12)]))
    for size in ((6, 8), (6, 4), (3, 6), (2, 4)):
        history.pooled(size)
    assert poolings == [((12, 12), (6, 8)), ((6, 8), (6, 4)), ((12, 12), (3, 6)), ((6, 4), (2, 4))]


@pytest.mark.parametrize(("sizes", "pooled_sizes"), CASES.values(), ids=CASES.keys())
def test_gradients_through_shared_copies_equal_those_of_separate_ones(sizes, pooled_sizes):
    inputs = features(sizes, requires_grad=True)
    history, generator = History(inputs), torch.Generator().manual_seed(1)
    shared = separate = 0
    for size in (*pooled_sizes, *pooled_sizes):
        for copy, feature in zip(history.pooled(size), inputs, strict=True):
            weight = torch.randn(copy.shape, dtype=torch.float64, generator=generator)
            shared = shared + (weight * copy).sum()
            separate = separate + (weight * pooled_directly(feature, size)).sum()
    for actual, expected in zip(
        torch.autograd.grad(shared, inputs), torch.autograd.grad(separate, inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def gradients_of_a_read(history, feature, size=(4, 4)):
    """The gradient of the first feature through its pooled copy, and of a weight on the copy."""
    weight = torch.ones(1, dtype=feature.dtype, requires_grad=True)
    loss = (weight * history.pooled(size)[0]).square().sum()
    inputs = (feature, weight) if feature.requires_grad else (weight,)
    return torch.autograd.grad(loss, inputs)


# what another reader of the history may do before a training step
OTHER_READERS = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "enable_grad": torch.enable_grad}


@pytest.mark.parametrize("requires_grad", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("sizes", [[(4, 4)], [(8, 8)], [(8, 8), (4, 4), (6, 6)]], ids=["same", "larger", "several"])
@pytest.mark.parametrize("mode", OTHER_READERS.values(), ids=OTHER_READERS.keys())
def test_a_read_in_another_mode_does_not_change_the_gradients(mode, sizes, requires_grad):
    (leaf,) = features([(16, 16)], requires_grad)
    feature = leaf * 1
    expected = gradients_of_a_read(History([feature]), feature)
    history = History([feature])
    with mode():
        for size in sizes:
            assert torch.equal(history.pooled(size)[0], pooled_directly(feature, size))
    for actual, reference in zip(gradients_of_a_read(history, feature), expected, strict=True):
        assert torch.equal(actual, reference)


@pytest.mark.parametrize("requires_grad", [True, False], ids=["trained", "frozen"])
def test_a_training_copy_serves_a_read_without_gradients(poolings, requires_grad):
    (leaf,) = features([(16, 16)], requires_grad)
    history = History([leaf * 1])
    (copy,) = history.pooled((8, 8))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert history.pooled((8, 8))[0] is copy
    assert len(poolings) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_copies_are_shared_where_nothing_has_gradients(poolings, mode):
    with mode():
        history = History([feature * 1 for feature in features([(16, 16)])])
        (first,), (second,) = history.pooled((8, 8)), history.pooled((8, 8))
    assert first is second
    assert len(poolings) == 1


def test_features_of_inference_mode_can_be_read_outside():
    with torch.inference_mode():
        (feature,) = features([(16, 16)])
        history = History([feature])
        history.pooled((4, 4))
    (gradient,) = gradients_of_a_read(history, feature)
    assert gradient.item() == pytest.approx(2 * pooled_directly(feature, (4, 4)).square().sum().item())


def test_a_feature_that_is_to_be_trained_later():
    (feature,) = features([(16, 16)])
    history = History([feature])
    history.pooled((4, 4))
    feature.requires_grad_()
    expected = gradients_of_a_read(History([feature]), feature)
    assert torch.equal(gradients_of_a_read(history, feature)[0], expected[0])


def test_a_feature_that_is_changed_in_place_is_pooled_again():
    (feature,) = features([(16, 16)])
    history = History([feature])
    history.pooled((8, 8))
    feature.neg_()
    for size in ((8, 8), (4, 4)):
        assert torch.equal(history.pooled(size)[0], pooled_directly(feature, size))


# a part of the history


def test_first_features_and_their_copies(poolings):
    history = History(features([(16, 16)]))
    (early,) = history.pooled((8, 8))
    history.append(features([(16, 16)])[0])
    late = history.pooled((4, 4))
    history.append(features([(16, 16)])[0])
    for _ in range(2):
        part = history.first(2)
        assert len(part) == 2
        assert all(a is b for a, b in zip(part, history, strict=False))
        assert part.pooled((8, 8))[0] is early
        # a copy that was made with two features is not in the part, where two stages have not yet run
        assert not any(copy is other for copy, other in zip(part.pooled((4, 4)), late, strict=True))
        part.append(history[0])
    assert len(history) == 3
    # every part has made the same copies
    assert poolings[3:] == [((16, 16), (8, 8)), ((8, 8), (4, 4)), ((8, 8), (4, 4))] * 2


@pytest.mark.parametrize("n", [-1, 3])
def test_more_first_features_than_there_are_is_an_error(n):
    with pytest.raises(ValueError, match=rf"\b2 features.* {n}\b"):
        History(features([(4, 4), (2, 2)])).first(n)
