"""Masks to labels: what is a mask of one class, what is smeared beyond use, and what a label map knows."""

import io

import numpy as np
import pytest
from PIL import Image

from nnunet_xattnres.convert.labels import BinaryMask, LabelMap
from nnunet_xattnres.convert.problems import UnusableError

DISC = np.hypot(*(np.indices((64, 64)) - 31.5)) < 20


def jpeg(mask, quality):
    buffer = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("high", [1, 255])
@pytest.mark.parametrize("mask", [DISC, ~DISC, DISC | True, DISC & False], ids=["disc", "hole", "full", "empty"])
def test_two_values(mask, high):
    labels, _ = BinaryMask("polyp").apply((mask * high).astype(np.uint8), "m.png")
    np.testing.assert_array_equal(labels, mask)
    assert labels.dtype == np.uint8


@pytest.mark.parametrize("quality", [95, 75, 50])
def test_smeared_by_jpeg(quality):
    values = jpeg(DISC, quality)
    assert len(np.unique(values)) > 2
    labels, (change,) = BinaryMask("polyp").apply(values, "m.jpg", lossy=True)
    np.testing.assert_array_equal(labels, DISC)
    assert change == f"{np.isin(values, (0, 255), invert=True).sum()} smeared pixels, threshold 128"


def test_a_faint_jpeg_is_not_empty():
    assert not BinaryMask("polyp").apply(jpeg(DISC & False, 75), "m.jpg", lossy=True)[0].any()
    for high in (1, 5, 60):
        values = jpeg(DISC * high / 255, 90)
        with pytest.raises(UnusableError, match=f"values go up to {values.max()}"):
            BinaryMask("polyp").apply(values, "m.jpg", lossy=True)


@pytest.mark.parametrize("classes", [(0, 1, 2, 255), (0, 40, 128, 255)])
def test_several_classes_are_not_smeared_to_one(classes):
    values = np.random.default_rng(0).choice(np.array(classes, np.uint8), (64, 64), p=(0.9, 0.04, 0.03, 0.03))
    with pytest.raises(UnusableError, match="pass --labels for several classes"):
        BinaryMask("polyp").apply(values, "m.png")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.linspace(0, 255, 4096).reshape(64, 64).astype(np.uint8), "50 % of its pixels lie between 64 and 191"),
        (DISC.astype(np.uint8) * 76, "go up to 76"), (DISC * 300, "go up to 300"), (DISC * -1, "such as -1"),
        (DISC * 0.5, "such as 0.5"),
    ],
)  # fmt: skip
def test_no_mask(values, text):
    with pytest.raises(UnusableError) as error:
        BinaryMask("polyp").apply(values, "m.png")
    assert text in error.value.problem.text and error.value.problem.file == "m.png"


def test_threshold():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(BinaryMask("polyp", 77).apply(values, "m.png")[0], values >= 77)


def test_label_map():
    source = np.random.default_rng(0).choice([0, 3, 7, 9], (5, 6, 7))
    label_map = LabelMap({0: 0, 3: 7, 7: 3, 9: 0}, {"background": 0})
    labels, changes = label_map.apply(source, "m.nii.gz")
    np.testing.assert_array_equal(labels, np.select([source == 3, source == 7], [7, 3], 0))
    assert changes == ["values 3 to 7, 7 to 3, 9 to 0"]
    assert LabelMap({0: 0, 1: 1}, {}).apply(source * 0, "m")[1] == []


@pytest.mark.parametrize(
    ("values", "lossy", "text"),
    [
        ([0, 1, 5], False, "has the values 5; the label map knows 0, 1"),
        ([0, 0.5, 1], False, "has the values 0.5;"),
        (range(9), True, "has the values 2, 3, 4, 5, 6 ...; the label map knows 0, 1; JPEG has smeared it"),
    ],
)
def test_unknown_values(values, lossy, text):
    with pytest.raises(UnusableError) as error:
        LabelMap({0: 0, 1: 1}, {}).apply(np.array([values]), "m.png", lossy)
    assert text in error.value.problem.text
