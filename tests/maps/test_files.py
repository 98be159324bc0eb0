"""Map files lie where their images lie, for every reader of nnU-Net."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from nnunet_xattnres.maps.files import map_ending, write_map


@pytest.fixture
def volume(tmp_path):
    """An image whose axes are flipped and permuted, with values that all differ."""
    image = sitk.GetImageFromArray(np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((10, -20, 30))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "case_0000.nii.gz"))
    return tmp_path / "case_0000.nii.gz"


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
def test_volumes_have_the_geometry_of_the_image(volume, reader):
    """What is read from the image and written as a map is the image again, voxel by voxel in space."""
    values, properties = reader().read_images([str(volume)])
    path = volume.with_name("map.nii.gz")
    write_map(values[0], path, properties)
    before, after = sitk.ReadImage(str(volume)), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), sitk.GetArrayFromImage(before))
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, get)() == pytest.approx(getattr(before, get)(), abs=1e-5)
    assert after.GetPixelID() == sitk.sitkFloat32


def test_pictures_have_eight_bits(tmp_path):
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "case_0000.bmp")
    _, properties = NaturalImage2DIO().read_images([str(tmp_path / "case_0000.bmp")])
    path = tmp_path / f"map{map_ending('.bmp')}"
    weights = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    write_map(weights, path, properties)
    np.testing.assert_allclose(np.asarray(Image.open(path)) / 255, weights[0], atol=0.5 / 255 + 1e-6)
    write_map(np.full((1, 3, 4), 7, np.uint8), path, properties)
    assert (np.asarray(Image.open(path)) == 7).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case_0000.bmp", "map.png"]


def test_tif_volumes(tmp_path):
    path = tmp_path / "map.tif"
    values = np.random.default_rng(0).random((2, 3, 4), np.float32)
    write_map(values, path, {"spacing": (1, 1, 1)})
    np.testing.assert_array_equal(Tiff3DIO().read_images([str(path)])[0][0], values)
