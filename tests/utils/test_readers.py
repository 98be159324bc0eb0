"""The chosen reader is nnU-Net's choice, and nothing is printed."""

import contextlib
import io
import os

import nibabel
import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.readers import choose_reader, find_other_reader

ARRAY = np.zeros((6, 7, 8), np.uint8)


def write(path, shear=0.0, array=ARRAY):
    affine = np.eye(4)
    affine[0, 1] = shear
    if path.name.endswith(".tif"):
        tifffile.imwrite(path, array)
    else:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a_0000.tif", {}, "Tiff3DIO"),
        ("a_0000.tif", {"array": ARRAY[0]}, "NaturalImage2DIO"),
        ("a.nii.gz", {}, "SimpleITKIO"),
        ("a.nii.gz", {"shear": 0.5}, "NibabelIO"),
        ("a.nii", {}, "NibabelIO"),
    ],
)
def test_the_first_reader_that_reads_the_example(tmp_path, capfd, name, options, expected):
    path = write(tmp_path / name, **options)
    description = {"file_ending": name[name.index(".") :]}
    reader = choose_reader(description, [path])
    assert reader.__name__ == expected
    assert capfd.readouterr() == ("", "")
    with contextlib.redirect_stderr(io.StringIO()):
        assert reader is determine_reader_writer_from_dataset_json(description, str(path), verbose=False)


def test_plans_and_dataset_json(tmp_path):
    path, description = write(tmp_path / "a.nii.gz"), {"file_ending": ".nii.gz"}
    description["overwrite_image_reader_writer"] = "NibabelIOWithReorient"
    assert choose_reader(description, [path]).__name__ == "NibabelIOWithReorient"
    plans = {"image_reader_writer": "NibabelIO"}
    assert choose_reader(description, [path], plans).__name__ == "NibabelIO"
    with pytest.raises(UserError, match="OwnIO"):
        choose_reader(description, [path], {"image_reader_writer": "OwnIO"})


def test_a_damaged_example_does_not_decide(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"damaged")
    examples = [tmp_path / "a.tif", write(tmp_path / "b_0000.tif")]
    assert choose_reader({"file_ending": ".tif"}, examples).__name__ == "Tiff3DIO"
    assert choose_reader({"file_ending": ".tif"}, examples[:1]).__name__ == "NaturalImage2DIO"


def test_an_example_whose_name_would_abort_itk(tmp_path):
    path = write(tmp_path / "a.nii.gz", shear=0.5)
    path = path.rename(tmp_path / os.fsdecode(b"caf\xe9.nii.gz"))
    assert choose_reader({"file_ending": ".nii.gz"}, [path]).__name__ == "SimpleITKIO"


@pytest.mark.parametrize("ending", [".jpg", "nii.gz", ""])
def test_an_ending_that_nnunet_does_not_read(tmp_path, ending):
    with pytest.raises(UserError, match=rf"{ending!r}.*\.nii\.gz"):
        choose_reader({"file_ending": ending}, [])


def test_another_reader(tmp_path):
    simple, nibabel_reader = (choose_reader({"file_ending": e}, []) for e in (".nii.gz", ".nii"))
    sheared = write(tmp_path / "a.nii.gz", 0.5)
    assert find_other_reader(".nii.gz", sheared, simple) == "NibabelIO"
    assert find_other_reader(".nii.gz", sheared, nibabel_reader) is None
    (tmp_path / "b.nii.gz").write_bytes(b"damaged")
    assert find_other_reader(".nii.gz", tmp_path / "b.nii.gz", simple) is None
