"""The values of masks are mapped to labels; values that are ambiguous or unknown are refused."""

import io

import numpy as np
import pytest
from PIL import Image

from nnunet_xattnres.convert.labels import BinaryMask, LabelMap
from nnunet_xattnres.convert.problems import UnusableError

DISC = np.hypot(*(np.indices((64, 64)) - 31.5)) < 20
RAMP = np.linspace(0, 255, 4096).reshape(64, 64).astype(np.uint8)


def jpeg(mask, quality):
    buffer = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def check_refused(labels, values, code, *texts, lossy=False):
    """Check code, file and values of the problem of a mask."""
    with pytest.raises(UnusableError) as error:
        labels.apply(values, "mask.png", lossy)
    problem = error.value.problem
    assert (problem.file, problem.code) == ("mask.png", code)
    assert all(text in problem.text for text in texts), problem.text


class TestBinaryMask:
    polyp = BinaryMask("polyp")

    @pytest.mark.parametrize("foreground", [1, 255])
    @pytest.mark.parametrize("mask", [DISC, ~DISC, DISC | True, DISC & False], ids=["disc", "hole", "full", "empty"])
    def test_two_values(self, mask, foreground):
        labels, _ = self.polyp.apply((mask * foreground).astype(np.uint8), "mask.png")
        np.testing.assert_array_equal(labels, mask)
        assert labels.dtype == np.uint8

    @pytest.mark.parametrize("quality", [95, 75, 50])
    def test_jpeg(self, quality):
        values = jpeg(DISC, quality)
        assert len(np.unique(values)) > 2
        labels, (change,) = self.polyp.apply(values, "mask.jpg", lossy=True)
        np.testing.assert_array_equal(labels, DISC)
        assert str(np.isin(values, (0, 255), invert=True).sum()) in change.split()

    @pytest.mark.parametrize(("value", "quality"), [(1, 90), (5, 90), (5, 75), (40, 75), (60, 90)])
    def test_a_faint_jpeg_is_not_an_empty_mask(self, value, quality):
        values = jpeg(DISC * value / 255, quality)
        assert 1 <= values.max() < 128
        check_refused(self.polyp, values, "mask-values", str(values.max()), lossy=True)
        assert not self.polyp.apply(jpeg(DISC & False, quality), "mask.jpg", lossy=True)[0].any()

    @pytest.mark.parametrize("classes", [(0, 1, 2, 255), (0, 40, 128, 255)])
    def test_several_classes(self, classes):
        values = np.random.default_rng(0).choice(np.array(classes, np.uint8), (64, 64), p=(0.9, 0.04, 0.03, 0.03))
        check_refused(self.polyp, values, "several-classes", *map(str, classes), "--labels")

    @pytest.mark.parametrize(
        ("values", "code", "text"),
        [
            (RAMP, "smeared-mask", "50 %"), (DISC.astype(np.uint8) * 76, "mask-values", "76"),
            (DISC * 300, "mask-values", "300"), (DISC * -1, "mask-values", "-1"), (DISC * 0.5, "mask-values", "0.5"),
        ],
        ids=["smeared", "76", "above 255", "negative", "fraction"],
    )  # fmt: skip
    def test_other_values(self, values, code, text):
        check_refused(self.polyp, values, code, text)

    def test_threshold(self):
        values = np.arange(256, dtype=np.uint8).reshape(16, 16)
        np.testing.assert_array_equal(BinaryMask("polyp", 77).apply(values, "mask.png")[0], values >= 77)


class TestLabelMap:
    def test_values(self):
        source = np.random.default_rng(0).choice([0, 3, 7, 9], (5, 6, 7))
        label_map = LabelMap({0: 0, 3: 7, 7: 3, 9: 0}, {"background": 0})
        labels, (change,) = label_map.apply(source, "mask.nii.gz")
        np.testing.assert_array_equal(labels, np.select([source == 3, source == 7], [7, 3], 0))
        assert all(mapped in change for mapped in ("3 to 7", "7 to 3", "9 to 0")) and "0 to 0" not in change
        assert LabelMap({0: 0, 1: 1}, {}).apply(source * 0, "mask.nii.gz")[1] == []

    @pytest.mark.parametrize(
        ("values", "lossy", "texts"),
        [([0, 1, 5], False, ["5", "0, 1"]), ([0, 0.5, 1], False, ["0.5"]), (range(9), True, ["2, 3, 4, 5, 6", "JPEG"])],
    )
    def test_unknown_values(self, values, lossy, texts):
        label_map = LabelMap({0: 0, 1: 1}, {})
        check_refused(label_map, np.array([values]), "unknown-label", *texts, lossy=lossy)
