"""The attention over whole images, against a single pass of the network and against known maps."""

import math

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.plans_file import plans_dict

from nnunet_xattnres.maps.predictor import AttentionPredictor, enlarge
from nnunet_xattnres.training.trainer_classes import trainer_class

DATASET = {"channel_names": {"0": "a"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}


def predictor(name="nnUNetTrainerXAttnRes", configuration="2d", folds=1, patch=16, **options):
    """A predictor of random networks, as if they had been trained."""
    result = AttentionPredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
    plans = plans_dict() | {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    planned = plans["configurations"][configuration]
    planned["patch_size"] = [patch] * len(planned["patch_size"])
    manager = PlansManager(plans)
    weights = []
    for seed in range(folds):
        torch.manual_seed(seed)
        network = trainer_class(name).build_network_architecture(
            manager, manager.get_configuration(configuration), 1, 2, False
        )
        for key, parameter in network.named_parameters():
            if key.endswith("pseudo_query"):
                torch.nn.init.normal_(parameter)
            elif key.endswith("gate"):
                torch.nn.init.constant_(parameter, 0.5)
        weights.append(network.state_dict())
    result.manual_initialization(
        network, manager, manager.get_configuration(configuration), weights, DATASET, name, (0, 1)
    )
    return result


def by_hooks(network, image):
    """The attention of every layer in one pass, as the tutorial collects it."""
    collected = {}
    hooks = [
        layer.register_forward_pre_hook(lambda m, inputs, n=n: collected.update({n: m.attention(*inputs)}))
        for n, layer in network.xattnres.items()
    ]
    with torch.no_grad():
        network.eval()(image)
    for hook in hooks:
        hook.remove()
    return collected


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerXAttnRes", "nnUNetTrainerXAttnResGated", "nnUNetTrainerPaperUNetXAttnRes"]
)
def test_one_patch_is_a_single_pass(name):
    p = predictor(name, use_mirroring=False)
    data = torch.randn(1, 1, 16, 16)
    expected = by_hooks(p.network, data)
    encoder = 5 if "PaperUNet" in name else 3
    assert p.layers() == [f"e{int(n) + 1}" if int(n) < encoder else f"d{int(n) - encoder + 1}" for n in expected]
    for layer, attention in zip(p.layers(), expected.values(), strict=True):
        weights = p.predict_attention(data, layer)
        assert len(p.sources(layer)) == len(weights) == attention.shape[1]
        factor = 16 // attention.shape[2]
        full = attention.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        torch.testing.assert_close(weights[:, 0], full[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_weights_sum_to_one_over_a_large_image(configuration):
    p = predictor(configuration=configuration, folds=2)
    data = torch.randn(1, 3 if configuration == "2d" else 20, 37, 22)
    for layer in p.layers():
        weights = p.predict_attention(data, layer)
        assert weights.shape[1:] == data.shape[1:]
        assert (weights.sum(0) - 1).abs().max() < 1e-5 and weights.min() >= 0


def test_known_maps():
    """Zero pseudo-queries read all sources equally; so do all windows, folds and mirrored images."""
    p = predictor()
    for weights in p.list_of_parameters:
        for key in weights:
            if key.endswith("pseudo_query"):
                weights[key].zero_()
    for layer in p.layers():
        weights = p.predict_attention(torch.randn(1, 2, 40, 30), layer)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(p.sources(layer))), atol=1e-3, rtol=0)


def test_mirroring_and_folds_are_averaged():
    data = torch.randn(1, 1, 16, 16)
    p = predictor(folds=2)
    expected = []
    for weights in p.list_of_parameters:
        p.network.load_state_dict(weights)
        for axes in ((), (2,), (3,), (2, 3)):
            attention = by_hooks(p.network, data.flip(axes))["4"]
            expected.append(attention.flip(axes))
    result = p.predict_attention(data, "d2")
    torch.testing.assert_close(result[:, 0], torch.stack(expected).mean(0)[0], atol=2e-3, rtol=0)


def test_the_predictor_still_segments():
    """Afterwards the network, its hooks and the number of heads are those of before."""
    p = predictor()
    data = torch.randn(1, 1, 20, 24)
    before = p.predict_logits_from_preprocessed_data(data)
    p.predict_attention(data, "e2")
    torch.testing.assert_close(p.predict_logits_from_preprocessed_data(data), before, atol=0, rtol=0)


def test_back_in_the_image():
    """Resampled, put where the image was cropped, and with the axes of the file."""
    p = predictor()
    p.plans_manager.plans |= {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    weights = torch.rand(2, 3, 8, 8)
    properties = {
        "spacing": [1.0, 3.0, 1.0], "shape_before_cropping": (5, 12, 10),
        "shape_after_cropping_and_before_resampling": (3, 8, 8), "bbox_used_for_cropping": [[1, 4], [2, 10], [0, 8]],
    }  # fmt: skip
    p.configuration_manager.configuration |= {
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "spacing": [1.0, 1.0],
    }
    image = p.to_image(weights, properties)
    assert image.shape == (2, 12, 5, 10)
    back = image.transpose(0, 2, 1, 3)
    np.testing.assert_allclose(back[:, 1:4, 2:10, :8], weights.numpy(), atol=1e-6)
    assert back.sum() == pytest.approx(weights.sum().item(), rel=1e-5)


@pytest.mark.parametrize("size", [(40, 33), (16, 16), (17, 48)])
@pytest.mark.parametrize("stride", [1, 2, 16])
def test_enlarged_maps_cover_the_pixels_they_stand_for(size, stride):
    """Also in networks that pad the image to multiples of 16."""
    padded = [math.ceil(side / 16) * 16 for side in size]
    stage = torch.arange(math.prod(padded) / stride**2).reshape(1, 1, *(side // stride for side in padded))
    enlarged = enlarge(stage, size)
    for y, x in [(0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)]:
        assert enlarged[0, 0, y, x] == stage[0, 0, y // stride, x // stride]


def test_a_network_without_layers():
    with pytest.raises(ValueError, match="no XAttnRes layers"):
        predictor("nnUNetTrainerNoSkip").layers()


def test_a_layer_that_does_not_exist():
    with pytest.raises(ValueError, match="e2, e3, d1, d2"):
        predictor().sources("e1")
