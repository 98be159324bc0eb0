"""Volumes keep their geometry, masks must have that of their image, and files are written completely or not at all."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from support import downloads, faults

from nnunet_xattnres.convert.case import SourceCase
from nnunet_xattnres.convert.labels import LabelMap
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import SourceFile
from nnunet_xattnres.convert.volumes import NiftiReader

LABELS = LabelMap({0: 0, 1: 1}, {"background": 0, "organ": 1})
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def save(path, array, spacing=(1, 2, 3), origin=(4, 5, 6)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, path)
    return SourceFile(path.name, path)


def save_case(root, **geometry):
    """A case whose mask has this geometry."""
    mask = save(root / "mask.nii.gz", (HU > 0).astype(np.uint8), **geometry)
    return SourceCase("1", "train", (save(root / "image.nii.gz", HU),), (mask,))


def test_window_and_type_of_values(tmp_path):
    data = NiftiReader(LABELS, (-125, 275)).read(save_case(tmp_path))
    assert data.image.image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(data.image.image), HU.clip(-125, 275))
    assert data.counts == {0: int((HU <= 0).sum()), 1: int((HU > 0).sum())}


def test_rounded_headers(tmp_path):
    data = NiftiReader(LABELS).read(save_case(tmp_path, origin=(4, 5, 6.0004)))
    assert data.labels.image.GetOrigin() == data.image.image.GetOrigin()


@pytest.mark.parametrize("geometry", [{"origin": (4, 5, 7)}, {"spacing": (1, 2, 3.1)}])
def test_another_geometry(tmp_path, geometry):
    with pytest.raises(UnusableError) as error:
        NiftiReader(LABELS).read(save_case(tmp_path, **geometry))
    problem = error.value.problem
    assert (problem.file, problem.code) == ("mask.nii.gz", "geometry-mismatch") and "image.nii.gz" in problem.text


def test_a_full_disk(tmp_path):
    (tmp_path / "out.nii.gz").symlink_to("/dev/full")
    data = NiftiReader(LABELS).read(save_case(tmp_path))
    with pytest.raises(OSError):
        NiftiReader(LABELS).write(data.image, tmp_path / "out.nii.gz")
    NiftiReader(LABELS).write(data.image, tmp_path / "good.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "good.nii.gz").dataobj).T, HU)


def test_the_preview_is_the_slice_with_the_most_foreground(tmp_path):
    labels = np.zeros_like(HU, np.uint8)
    labels[2, :2], labels[3, 0] = 1, 1
    image, mask = (save(tmp_path / f"{name}.nii.gz", array) for name, array in (("image", HU), ("mask", labels)))
    image_slice, label_slice = NiftiReader(LABELS).load_preview(image.path, mask.path)
    np.testing.assert_array_equal(image_slice, HU[2])
    np.testing.assert_array_equal(label_slice, labels[2])


class TestFaults:
    """Faults of the cases of a source, through the command."""

    def test_every_fault_is_listed(self, refuse, tmp_path):
        source = downloads.scans(tmp_path, len(faults.VOLUME_FAULTS) + 1)
        for n, fault in enumerate(faults.VOLUME_FAULTS.values(), 1):
            fault.change(source, n)
        expected = [fault.expected(n) for n, fault in enumerate(faults.VOLUME_FAULTS.values(), 1)]
        faults.check_listed(refuse("folder", source), expected)

    def test_values_that_the_label_map_does_not_have(self, refuse, tmp_path):
        source = downloads.scans(tmp_path)
        faults.set_voxel(faults.mask(source, 3, "nii.gz"), 3, np.uint8)
        faults.set_voxel(faults.mask(source, 4, "nii.gz"), 0.25, np.float32)
        expected = [
            ("masks/3.nii.gz", "unknown-label", "3", "0, 1"),
            ("masks/4.nii.gz", "unknown-label", "0.25", "0, 1"),
        ]
        faults.check_listed(refuse("folder", source, "--labels", "1=organ"), expected)
