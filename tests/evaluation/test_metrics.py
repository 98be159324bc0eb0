"""The scores agree with their equations and with MONAI, MedPy and nnU-Net, also on degenerate masks."""

import numpy as np
import pytest
import torch
from medpy.metric import binary as medpy
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from support import masks

from nnunet_xattnres.evaluation import METRICS, PROTOCOLS, compare

DEFAULT = PROTOCOLS["default"]
REGIONS = {"one": (1,), "two": (2,), "three": (3,), "whole": (1, 2, 3), "two and an absent one": (2, 5), "absent": (6,)}


def scores(a, b, spacing=None, tolerance=1.0, protocol="default"):
    """The scores of two masks."""
    spacing = [float(s) for s in spacing or [1] * a.ndim]
    maps = a.astype(np.uint8), b.astype(np.int64)
    return compare(*maps, {"x": (1,)}, spacing, PROTOCOLS[protocol], float(tolerance))["x"]


def close(expected, rel=1e-9):
    return {m: None if v is None else pytest.approx(float(v), rel=rel, abs=1e-12) for m, v in expected.items()}


@pytest.mark.parametrize("spacing", masks.SPACINGS)
@pytest.mark.parametrize("pair", masks.PAIRS)
def test_default_agrees_with_the_equations(pair, spacing):
    a, b = masks.PAIRS[pair]
    settings = masks.spacing_of(spacing, a)
    expected = masks.scores(a, b, *settings)
    assert set(expected) == set(METRICS)
    assert scores(a, b, *settings) == close(expected)
    assert scores(b, a, *settings) == close(expected)


@pytest.mark.filterwarnings(
    "ignore:.*always_return_as_numpy.*:FutureWarning"
)  # MONAI uses a deprecated function of its own
@pytest.mark.parametrize("spacing", masks.SPACINGS)
@pytest.mark.parametrize("pair", [p for p in masks.PAIRS if p != "row"])  # MONAI needs 2-D or 3-D masks
def test_default_agrees_with_monai(pair, spacing):
    """The tolerance is that of single precision, in which MONAI computes distances."""
    a, b = masks.PAIRS[pair]
    spacings, tolerance = masks.spacing_of(spacing, a)
    result = scores(a, b, spacings, tolerance)
    tensors = [torch.from_numpy(m.squeeze())[None, None].double() for m in (a, b)]
    options = {
        "include_background": True,
        "spacing": [float(s) for s, size in zip(spacings, a.shape, strict=True) if size > 1],
    }
    expected = {
        "surface_dice": compute_surface_dice(*tensors, class_thresholds=[float(tolerance)], **options),
        "hd95": compute_hausdorff_distance(*tensors, percentile=95, **options),
        "assd": compute_average_surface_distance(*tensors, symmetric=True, **options),
    }
    assert {m: result[m] for m in expected} == close({m: v.item() for m, v in expected.items()}, rel=1e-6)


@pytest.mark.parametrize("spacing", masks.SPACINGS)
@pytest.mark.parametrize("pair", masks.PAIRS)
def test_published_agrees_with_medpy(pair, spacing):
    a, b = masks.PAIRS[pair]
    settings = masks.spacing_of(spacing, a)  # the spacing must not have an effect
    result = scores(a, b, *settings, protocol="published")
    a, b = a.squeeze(), b.squeeze()
    expected = {"dice": medpy.dc(a, b), "iou": medpy.jc(a, b), "hd95": medpy.hd95(a, b)}
    expected["assd"] = medpy.assd(a, b)
    expected["surface_dice"] = masks.scores(a, b, [1] * a.ndim, settings[1])["surface_dice"]
    assert result == close(expected)


EMPTY = {
    ("default", "both"): (None, None, None),
    ("default", "prediction"): (0, 0, None),
    ("default", "reference"): (0, 0, None),
    ("published", "both"): (0, 0, 0),
    ("published", "prediction"): (0, 0, 0),
    ("published", "reference"): (1, 1, 0),
}


@pytest.mark.parametrize(("protocol", "empty"), EMPTY)
@pytest.mark.parametrize("pair", ["blobs 3-D", "voxels 2-D", "volume of one slice, axis 0"])
def test_empty_masks(pair, protocol, empty):
    overlap, surface, distance = EMPTY[protocol, empty]
    a, b = masks.PAIRS[pair]
    a, b = a & (empty == "reference"), b & (empty == "prediction")
    expected = {"dice": overlap, "iou": overlap, "surface_dice": surface, "hd95": distance, "assd": distance}
    for _ in range(2):
        result = scores(a, b, protocol=protocol)
        assert result == expected
        result.clear()  # a caller that changes the result must not change the protocol


def label_maps(shape, seed, values=4):
    """Two label maps with the labels 0 to `values` - 1 as blobs; the first one lacks label 3."""
    rng = np.random.default_rng(seed)
    masked = [masks.blobs(shape, [seed, v]) for v in range(values)]
    a, b = (np.argmax([m[n] * rng.random(shape) for m in masked], 0) for n in (0, 1))
    return np.where(a == 3, 0, a), b


class Arrays:
    """A reader like nnU-Net's, for label maps in memory."""

    def __init__(self, **maps):
        self.maps = maps

    def read_seg(self, name):
        return self.maps[name], {}


def nnunet(prediction, reference, ignore=None):
    arrays = Arrays(prediction=prediction, reference=reference)
    result = compute_metrics("reference", "prediction", arrays, [*REGIONS.values()], ignore)
    return {name: result["metrics"][values] for name, values in REGIONS.items()}


@pytest.mark.parametrize("ignore", [None, 3, 9])
@pytest.mark.parametrize("shape", [(9, 8, 7), (15, 14)])
def test_overlaps_agree_with_nnunet(shape, ignore):
    prediction, reference = label_maps(shape, 0)
    if ignore == 9:
        for seed, label_map in ((1, prediction), (2, reference)):
            label_map[np.random.default_rng(seed).random(shape) < 0.2] = 9
    result = compare(prediction, reference, REGIONS, [1.0] * len(shape), DEFAULT, 1.0, ignore)
    assert list(result) == list(REGIONS)
    for name, theirs in nnunet(prediction, reference, ignore).items():
        expected = {m: None if np.isnan(theirs[n]) else theirs[n] for m, n in (("dice", "Dice"), ("iou", "IoU"))}
        assert {m: result[name][m] for m in expected} == close(expected)
    assert result["absent"]["dice"] is None
    assert 0 < result["whole"]["dice"] < 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_region_is_scored_as_the_mask_of_its_values(protocol):
    prediction, reference = label_maps((9, 8, 7), 0)
    settings = ((3.0, 0.75, 0.5), PROTOCOLS[protocol], 1.5)
    result = compare(prediction, reference, REGIONS, *settings)
    for name, values in REGIONS.items():
        pair = (np.isin(label_map, values).astype(int) for label_map in (prediction, reference))
        assert result[name] == compare(*pair, {"x": (1,)}, *settings)["x"]
    assert result["three"] == PROTOCOLS[protocol].only_reference


@pytest.mark.parametrize("values", [(0,), (0, 1), (0, 2, 3)])
def test_a_region_that_includes_the_background(values):
    """The region has a hole, and label 3 is only in one corner."""
    prediction, reference = np.zeros((2, 9, 8), int)
    prediction[2:5, 2:5], prediction[0, 0] = 1, 3
    reference[3:7, 2:4], reference[0, 1] = 1, 3
    result = compare(prediction, reference, {"x": values}, (1.0, 1.0), DEFAULT, 1.0)["x"]
    assert result == close(masks.scores(np.isin(prediction, values), np.isin(reference, values), [1, 1], 1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pair", ["blobs 3-D", "blobs 2-D", "full and hollow", "opposite corners"])
def test_padding_does_not_change_the_scores(pair, protocol):
    a, b = masks.PAIRS[pair]
    padded = (np.pad(m, [(3, 1), (0, 4), (2, 2)][: m.ndim]) for m in (a, b))
    spacing, tolerance = masks.spacing_of("binary", a)
    assert scores(*padded, spacing, tolerance, protocol) == close(scores(a, b, spacing, tolerance, protocol))


@pytest.mark.parametrize("pair", ["blobs 3-D", "blobs 2-D", "noise 3-D"])
def test_other_labels_do_not_change_the_scores(pair):
    a, b = masks.PAIRS[pair]
    rng = np.random.default_rng(0)
    maps = (np.where(m, 1, rng.integers(2, 7, m.shape) * (rng.random(m.shape) < 0.5)) for m in (a, b))
    spacing, tolerance = masks.spacing_of("binary", a)
    result = compare(*maps, {"x": (1,)}, [float(s) for s in spacing], DEFAULT, float(tolerance))["x"]
    assert result == close(masks.scores(a, b, spacing, tolerance))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_predictions_in_ignored_voxels_do_not_change_the_scores(protocol):
    prediction, reference = label_maps((9, 8, 7), 3)
    ignored = masks.box(reference.shape, [(3, 6), (2, 8), (0, 4)])
    reference[ignored] = 9
    settings = (REGIONS, (3.0, 0.75, 0.5), PROTOCOLS[protocol], 1.5, 9)
    expected = compare(prediction, reference, *settings)
    for value in (0, 1, 3, 9):
        assert compare(np.where(ignored, value, prediction), reference, *settings) == expected
    assert compare(np.where(ignored, 0, prediction), np.where(ignored, 0, reference), *settings[:-1]) == expected
    assert compare(prediction, reference, *settings[:-1]) != expected


@pytest.mark.parametrize("axis", range(3))
def test_a_volume_of_one_slice_is_compared_as_an_image(axis):
    image = [m.astype(int) for m in masks.PAIRS["blobs 2-D"]]
    volume = [np.expand_dims(m, axis) for m in image]
    expected = compare(*image, {"x": (1,)}, (0.75, 0.5), DEFAULT, 1.5)
    assert compare(*volume, {"x": (1,)}, np.insert([0.75, 0.5], axis, 999.0), DEFAULT, 1.5) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1), (1, 1, 2)])
def test_arrays_of_one_or_two_voxels(shape):
    full = np.ones(shape, bool)
    assert scores(full, full) == {"dice": 1, "iou": 1, "hd95": 0, "assd": 0, "surface_dice": 1}


@pytest.mark.parametrize("start", range(12))
@pytest.mark.parametrize(
    ("spacing", "voxels", "tolerance"),
    [(0.1, 3, 0.3), (0.2, 5, 1.0), (0.7, 2, 1.4), (0.8, 2, 1.6), (0.9, 3, 2.7), (0.5, 2, 1.0), (3.0, 1, 3.0)],
)
def test_a_distance_equal_to_the_tolerance_is_within_it(spacing, voxels, tolerance, start):
    """This holds at every position in spite of rounding. The voxel at 0 is in both masks."""
    a, b = (masks.box((24,), [0], [5 + start + n]) for n in (0, voxels))
    assert scores(a, b, [spacing], tolerance)["surface_dice"] == 1
    assert scores(a, b, [spacing], 0.9 * tolerance)["surface_dice"] == 0.5


@pytest.mark.parametrize("pair", ["blobs 3-D", "the same voxel", "nested", "lines 2-D"])
def test_a_tolerance_of_zero(pair):
    a, b = masks.PAIRS[pair]
    spacing, _ = masks.spacing_of("decimal", a)
    assert scores(a, b, spacing, 0)["surface_dice"] == close(masks.scores(a, b, spacing, 0))["surface_dice"]


def test_distances_are_proportional_to_the_spacing():
    a, b = masks.PAIRS["blobs 3-D"]
    once, twice = scores(a, b, (3, 0.75, 0.5), 1.5), scores(a, b, (6, 1.5, 1), 3)
    assert once["hd95"] > 0
    doubled = {m: 2 * v if m in ("hd95", "assd") else v for m, v in once.items()}
    assert twice == close(doubled)


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(4, 1\)"):
        compare(np.ones((4, 4), int), np.ones((4, 1), int), {"x": (1,)}, (1, 1), DEFAULT, 1.0)


def test_ignored_voxels_are_in_no_region():
    reference, prediction = np.zeros((2, 10, 10), int)
    reference[:5], reference[5:7], prediction[5:6] = 2, 1, 1
    result = compare(prediction, reference, {"bg": (0,)}, (1, 1), PROTOCOLS["default"], 1.0, ignore=2)
    assert result["bg"]["dice"] == 2 * 30 / (40 + 30)
