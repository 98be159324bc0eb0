"""Arrays from 0 to 1 are HU again, whole ones where they were whole, and get the spacing they are told."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_xattnres.convert.arrays import ArrayReader
from nnunet_xattnres.convert.case import Case
from nnunet_xattnres.convert.labels import LabelMap
from nnunet_xattnres.convert.sources import File

LABELS = LabelMap({0: 0, 1: 1}, {"background": 0, "organ": 1})
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize("whole", [True, False])
def test_arrays(tmp_path, whole):
    window = HU.clip(-125, 275)
    image = (window / 400 + 125 / 400).astype(np.float32)
    image[0, 0, 0] = (0 if whole else 0.3) / 400
    window[0, 0, 0] = -125
    np.savez(tmp_path / "a.npz", image=image, label=(HU > 0).astype(np.float32))
    content = ArrayReader(LABELS, (1.0, 2.0, 3.0)).read(Case("1", "train", (File("a.npz", tmp_path / "a.npz"),)))
    array = sitk.GetArrayFromImage(content.image)
    assert array.dtype == (np.int16 if whole else np.float32)  # whole HU where they were whole
    np.testing.assert_allclose(array, window, atol=0 if whole else 0.31)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(content.labels), HU > 0)
    assert content.image.GetSpacing() == content.labels.GetSpacing() == (1, 2, 3)
