"""XAttnRes for a whole network: which stage reads what, by the number of features in the history."""

import pytest
import torch

from nnunet_xattnres import History, XAttnRes, XAttnResStages


def features(*widths, size=8):
    return [torch.randn(2, width, size, size) for width in widths]


def test_the_length_of_the_history_chooses_the_layer():
    stages = XAttnResStages([3, 4, 5, 4], {1: 3, 3: 6}, init="normal")
    assert {n: (layer.history_channels, layer.channels) for n, layer in stages.items()} == {
        "1": ((3,), 3), "3": ((3, 4, 5), 6),
    }  # fmt: skip
    pool = features(3, 4, 5)
    for n, width in ((1, 3), (3, 6)):
        (x,) = features(width)
        expected = stages[str(n)](pool[:n], x)
        assert torch.equal(stages(pool[:n], x), expected)
        assert torch.equal(stages(History(pool[:n]), x), expected)


def test_a_stage_that_does_not_read_takes_x_as_it_is():
    stages = XAttnResStages([3, 4, 5], {})
    a, b = features(2, 3)
    assert stages([], a) is a
    assert torch.equal(stages(features(3), (a, b)), torch.cat([a, b], 1))


def test_options_reach_every_layer():
    stages = XAttnResStages([3, 4, 5], {1: 4, 2: 5}, 3, init="normal", eps=1e-3, backend="reference")
    for layer in stages.values():
        assert isinstance(layer, XAttnRes)
        assert (layer.dim, layer.init, layer.eps, layer.backend) == (3, "normal", 1e-3, "reference")


@pytest.mark.parametrize("stage", [0, 2, -1])
def test_a_stage_without_anything_to_read(stage):
    with pytest.raises(ValueError, match=rf"query_channels.*stage {stage}$"):
        XAttnResStages([3, 4], {stage: 4})


def test_what_training_keeps():
    stages = XAttnResStages([3, 4, 3], {1: 4, 2: 7})
    # outputs 4 x 4² and 7 x 8²; h_0 is pooled to 4² for stage 1, stage 2 reads it as it is
    assert stages.count_kept_elements([(8, 8), (4, 4), (8, 8)]) == 4 * 16 + 7 * 64 + 3 * 16


@pytest.mark.parametrize("length", [2, 3])
def test_a_history_of_more_stages_than_there_are(length):
    stages = XAttnResStages([3, 4], {1: 4})
    with pytest.raises(ValueError, match=rf"\b2 stages.*\b{length} outputs"):
        stages(features(3, 4, 4)[:length], features(4)[0])
