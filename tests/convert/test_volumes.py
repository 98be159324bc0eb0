"""Volumes: geometry that must agree, and writing that is whole or an error."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_xattnres.convert.case import Case
from nnunet_xattnres.convert.labels import LabelMap
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import File
from nnunet_xattnres.convert.volumes import NiftiReader

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


def test_the_picture_is_the_fullest_slice(tmp_path):
    labels = np.zeros_like(HU, np.uint8)
    labels[2, :2], labels[3, 0] = 1, 1
    image, mask = (save(tmp_path / f"{n}.nii.gz", a) for n, a in (("i", HU), ("m", labels)))
    shown, drawn = NiftiReader(LABELS).show(image.path, mask.path)
    np.testing.assert_array_equal(shown, HU[2])
    np.testing.assert_array_equal(drawn, labels[2])
