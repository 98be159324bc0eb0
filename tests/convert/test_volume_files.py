"""Intact volumes are read whatever their name, header or format, and what is written nnU-Net reads."""

import gzip
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from support import converted, downloads

from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import SourceFile
from nnunet_xattnres.convert.volume_files import read_volume

ARRAY = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)  # x, y, z
AFFINE = np.array([[2, 0, 0, 5], [0, 2.5, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
SHEARED = AFFINE.copy()
SHEARED[0, 1] = 0.5


def save(path, array=ARRAY, affine=AFFINE, kind=nibabel.Nifti1Image):
    nibabel.save(kind(array, affine), path)
    return SourceFile(path.name, path)


def edit_header(path, **fields):
    """Change fields of the header of a .nii file, which nibabel itself would not write."""
    data = path.read_bytes()
    header = nibabel.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + data[348:])
    return SourceFile(path.name, path)


def check(file, affine=AFFINE, array=ARRAY):
    volume, changes = read_volume(file)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume.image).T, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    return changes


def code(file):
    with pytest.raises(UnusableError) as error:
        read_volume(file)
    return error.value.problem.code


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "V.NII.GZ", "V.NII"])
@pytest.mark.parametrize("compressed", [False, True])
def test_endings_and_compression(tmp_path, name, compressed):
    save(tmp_path / "right.nii")
    data = (tmp_path / "right.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if compressed else data)
    changes = check(SourceFile(name, tmp_path / name))
    assert bool(changes) == (compressed != name.lower().endswith("gz"))


def test_another_file_of_the_folder_is_not_read_instead(tmp_path):
    """ITK reads the voxels of v.nii where v.nii.gz is asked for, if both are in one folder."""
    file = save(tmp_path / "v.nii.gz")
    save(tmp_path / "v.nii", ARRAY + 1)
    assert (sitk.GetArrayFromImage(sitk.ReadImage(file.path)).T == ARRAY + 1).all()
    assert check(file) == []
    assert check(SourceFile("v.nii", tmp_path / "v.nii"), array=ARRAY + 1) == []


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("affine", [AFFINE, SHEARED], ids=["orthogonal", "sheared"])
def test_nifti(tmp_path, kind, affine):
    changes = check(save(tmp_path / "v.nii.gz", affine=affine, kind=kind), affine)
    assert any("sheared" in change for change in changes) == (affine is SHEARED)


def test_dimensions_of_size_one(tmp_path):
    assert any("size 1" in change for change in check(save(tmp_path / "v.nii.gz", ARRAY[..., None])))
    assert code(save(tmp_path / "w.nii.gz", np.stack([ARRAY] * 2, -1))) == "dimensions"


@pytest.mark.parametrize("ending", ["nrrd", "mha", "gipl"])
def test_formats_of_itk(tmp_path, ending):
    itk = sitk.GetImageFromArray(ARRAY.T)
    itk.SetSpacing((2, 2.5, 3))
    itk.SetOrigin((-5, -6, 7))
    sitk.WriteImage(itk, tmp_path / f"v.{ending}")
    affine = np.diag([-1, -1, 1, 1]) @ AFFINE
    affine[:2, 3] = (5, 6)
    check(SourceFile(f"v.{ending}", tmp_path / f"v.{ending}"), affine)


def test_mgz(tmp_path):
    check(save(tmp_path / "v.mgz", kind=nibabel.MGHImage))
    data = (tmp_path / "v.mgz").read_bytes()
    (tmp_path / "t.mgz").write_bytes(data[: len(data) // 2])
    assert code(SourceFile("t.mgz", tmp_path / "t.mgz")) == "damaged"


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_truncated_files_of_itk(tmp_path, ending, capfd):
    path = tmp_path / f"v.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY.T), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert code(SourceFile(path.name, path)) == "damaged"
    assert not capfd.readouterr().err


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_spacing_that_is_no_length(tmp_path, value, capfd):
    pixdim = [1, value, 2.5, 3, 1, 1, 1, 1]
    save(tmp_path / "v.nii")
    changes = check(edit_header(tmp_path / "v.nii", pixdim=pixdim))
    assert any("sform" in change for change in changes)
    assert code(edit_header(tmp_path / "v.nii", sform_code=0, qform_code=1)) == "spacing"
    assert code(edit_header(tmp_path / "v.nii", qform_code=0)) == "spacing"
    assert not capfd.readouterr().err


def test_a_matrix_that_is_no_matrix(tmp_path, capfd):
    save(tmp_path / "v.nii")
    nan = edit_header(tmp_path / "v.nii", srow_x=[np.nan, 0, 0, 0], qform_code=0)
    assert code(nan) == "spacing"
    save(tmp_path / "w.nii")
    image = nibabel.load(tmp_path / "w.nii")
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "q.nii")
    assert any("qform" in change for change in check(edit_header(tmp_path / "q.nii", srow_x=[np.nan, 0, 0, 0])))
    assert not capfd.readouterr().err


class TestConversion:
    """The command on volumes that only some of nnU-Net's readers read."""

    @pytest.fixture
    def source(self, tmp_path):
        return downloads.scans(tmp_path, 5)

    def shear(self, source, n, *folders):
        """Write volumes again with a sheared affine matrix, and return it."""
        for folder in folders:
            path = source / folder / f"{n}.nii.gz"
            image = nibabel.load(path)
            affine = image.affine.copy()
            affine[0, 2] += 1.5
            nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
        return affine

    def test_sheared_volumes_are_read_by_nibabel_io(self, convert, source):
        affine = self.shear(source, 2, "images", "masks")
        dataset = convert("folder", source, "--split", "1:0:0")
        description = json.loads((dataset / "dataset.json").read_text())
        images = sorted(map(str, (dataset / "imagesTr").iterdir()))
        reader = determine_reader_writer_from_dataset_json(description, images[0], verbose=False)()
        for n, image in enumerate(images, 1):
            values, properties = reader.read_images([image])
            original = nibabel.load(source / "images" / f"{n}.nii.gz")
            np.testing.assert_array_equal(values[0].T, original.get_fdata())
            np.testing.assert_allclose(properties["nibabel_stuff"]["original_affine"], original.affine, atol=1e-4)
            labels, label_properties = reader.read_seg(str(dataset / "labelsTr" / f"{n}.nii.gz"))
            np.testing.assert_array_equal(labels[0].T, nibabel.load(source / "masks" / f"{n}.nii.gz").get_fdata())
            assert np.allclose(properties["spacing"], label_properties["spacing"])
        np.testing.assert_allclose(nibabel.load(images[1]).affine, affine, atol=1e-5)
        assert any("NibabelIO" in change for change in converted.records(dataset)["2"]["changes"])

    def test_other_datasets_name_no_reader(self, convert, source):
        dataset = convert("folder", source, "--split", "1:0:0")
        assert "overwrite_image_reader_writer" not in json.loads((dataset / "dataset.json").read_text())

    def test_a_mask_that_is_not_sheared_as_its_image(self, refuse, source):
        self.shear(source, 2, "images")
        (_, problem) = refuse("folder", source)
        assert problem.strip().startswith("masks/2.nii.gz: geometry-mismatch: ") and "7.5 mm" in problem

    @pytest.mark.parametrize("threshold", ["0.5", "300"])
    def test_thresholds(self, convert, source, threshold):
        factor = np.float32(0.75) if threshold == "0.5" else np.int16(400)
        for path in (source / "masks").iterdir():
            mask = sitk.ReadImage(path)
            changed = sitk.GetImageFromArray(sitk.GetArrayFromImage(mask) * factor)
            changed.CopyInformation(mask)
            sitk.WriteImage(changed, path)
        dataset = convert("folder", source, "--split", "1:0:0", "--threshold", threshold)
        mask = nibabel.load(source / "masks" / "1.nii.gz").get_fdata()
        np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / "1.nii.gz").T, mask > 0)

    def test_values_beside_integers(self, convert, source):
        for n, difference in ((1, 1e-4), (2, -9e-4)):
            path = source / "masks" / f"{n}.nii.gz"
            mask = sitk.ReadImage(path, sitk.sitkFloat32)
            sitk.WriteImage(mask + difference, path)
        dataset = convert("folder", source, "--split", "1:0:0", "--labels", "1=organ")
        for n in (1, 2):
            mask = np.rint(nibabel.load(source / "masks" / f"{n}.nii.gz").get_fdata())
            np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / f"{n}.nii.gz").T, mask)
            assert any("rounded" in change for change in converted.records(dataset)[str(n)]["changes"])
