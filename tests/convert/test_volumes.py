"""Volumes: geometry that must agree, arrays back in HU, and writing that is whole or an error."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_xattnres.convert.case import Case
from nnunet_xattnres.convert.labels import LabelMap
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import File
from nnunet_xattnres.convert.volumes import ArrayReader, NiftiReader

LABELS = LabelMap({0: 0, 1: 1}, {"background": 0, "organ": 1})
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def save(path, array, spacing=(1, 2, 3), origin=(4, 5, 6)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, path)
    return File(path.name, path)


def case(tmp_path, **geometry):
    image = save(tmp_path / "image.nii.gz", HU)
    return Case("1", "train", (image,), (save(tmp_path / "mask.nii.gz", (HU > 0).astype(np.uint8), **geometry),))


def test_window_and_kind_of_numbers(tmp_path):
    content = NiftiReader(LABELS, (-125, 275)).read(case(tmp_path))
    assert content.image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(content.image), HU.clip(-125, 275))
    assert content.counts == {0: int((HU <= 0).sum()), 1: int((HU > 0).sum())}


def test_rounding_in_headers_is_the_images_geometry(tmp_path):
    content = NiftiReader(LABELS).read(case(tmp_path, origin=(4, 5, 6.0004)))
    assert content.labels.GetOrigin() == content.image.GetOrigin()


@pytest.mark.parametrize("geometry", [{"origin": (4, 5, 7)}, {"spacing": (1, 2, 3.1)}])
def test_elsewhere(tmp_path, geometry):
    with pytest.raises(UnusableError) as error:
        NiftiReader(LABELS).read(case(tmp_path, **geometry))
    assert error.value.problem.file == "mask.nii.gz" and "one spacing, origin and direction" in error.value.problem.text


def test_a_full_disk(tmp_path):
    (tmp_path / "out.nii.gz").symlink_to("/dev/full")
    content = NiftiReader(LABELS).read(case(tmp_path))
    with pytest.raises(OSError, match="not written whole"):
        NiftiReader(LABELS).write(content.image, tmp_path / "out.nii.gz")
    NiftiReader(LABELS).write(content.image, tmp_path / "good.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "good.nii.gz").dataobj).T, HU)


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


def test_the_picture_is_the_fullest_slice(tmp_path):
    labels = np.zeros_like(HU, np.uint8)
    labels[2, :2], labels[3, 0] = 1, 1
    image, mask = (save(tmp_path / f"{n}.nii.gz", a) for n, a in (("i", HU), ("m", labels)))
    shown, drawn = NiftiReader(LABELS).show(image.path, mask.path)
    np.testing.assert_array_equal(shown, HU[2])
    np.testing.assert_array_equal(drawn, labels[2])
