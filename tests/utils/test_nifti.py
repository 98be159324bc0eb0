"""Complete NIfTI files of all kinds pass the check; a missing byte or a flipped bit does not."""

import gzip
import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from nnunet_xattnres.utils.nifti import check_nifti, explain_compression, find_shadowing_file, is_nifti

RNG = np.random.default_rng(0)


def write(path, array):
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def small(path):
    """3 x 4 x 5 bytes after a header of 352."""
    return write(path, RNG.integers(0, 3, (3, 4, 5)).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii", True), ("a.nii.gz", True), ("a.b.nii.gz", True), ("a.gz", False), ("a.png", False), ("nii", False)],
)
def test_is_nifti(tmp_path, name, expected):
    assert is_nifti(tmp_path / name) is expected


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
class TestCompleteFiles:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
    @pytest.mark.parametrize("shape", [(40, 30), (9, 8, 7), (1, 8, 7), (2, 9, 8, 7)])
    def test_written_by_itk(self, tmp_path, ending, shape, dtype):
        check_nifti(write(tmp_path / f"a{ending}", RNG.integers(0, 100, shape).astype(dtype)))

    def test_rgb(self, tmp_path, ending):
        image = sitk.GetImageFromArray(RNG.integers(0, 100, (9, 8, 7, 3)).astype(np.uint8), isVector=True)
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        check_nifti(tmp_path / f"a{ending}")

    @pytest.mark.parametrize("dtype", [">i2", "<i2", np.uint8, np.float64])
    def test_written_by_nibabel(self, tmp_path, ending, dtype):
        nibabel.save(
            nibabel.Nifti1Image(RNG.integers(0, 100, (20, 30, 40)).astype(dtype), np.eye(4)), tmp_path / f"a{ending}"
        )
        check_nifti(tmp_path / f"a{ending}")

    @pytest.mark.parametrize("scale", [(1, 0), (0.5, 0), (1, -1024), (2, 10)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
    def test_rescaled_values(self, tmp_path, ending, dtype, scale):
        """A slope and intercept, as for Hounsfield units, make readers return a wider type than the file stores."""
        image = nibabel.Nifti1Image(RNG.integers(0, 100, (20, 30, 40)).astype(dtype), np.eye(4))
        image.header.set_slope_inter(*scale)
        nibabel.save(image, tmp_path / f"a{ending}")
        check_nifti(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_truncated_at_every_byte(tmp_path, ending):
    path = small(tmp_path / f"a{ending}")
    complete = path.read_bytes()
    check_nifti(path)
    for length in range(len(complete)):
        path.write_bytes(complete[:length])
        with pytest.raises(ValueError, match=r"^(truncated|not a NIfTI file)") as error:
            check_nifti(path)
        assert "\n" not in str(error.value)


def test_a_truncated_file_that_was_compressed_afterwards(tmp_path):
    path = tmp_path / "a.nii.gz"
    complete = small(tmp_path / "a.nii").read_bytes()
    path.write_bytes(gzip.compress(complete))
    check_nifti(path)
    for length in (*range(0, 352, 50), *range(352, len(complete))):
        path.write_bytes(gzip.compress(complete[:length]))
        with pytest.raises(ValueError, match=r"^(truncated|not a NIfTI file)"):
            check_nifti(path)


def test_a_flipped_bit_is_detected_or_changes_nothing(tmp_path):
    """gzip has a checksum; only its header has bits without an effect, such as the time."""
    path = small(tmp_path / "a.nii.gz")
    complete = path.read_bytes()
    detected = 0
    for position in range(len(complete)):
        for bit in (0, 4, 7):
            path.write_bytes(complete[:position] + bytes([complete[position] ^ 1 << bit]) + complete[position + 1 :])
            try:
                check_nifti(path)
            except ValueError:
                detected += 1
            else:
                assert gzip.decompress(path.read_bytes()) == gzip.decompress(complete)
    assert detected > 2.5 * (len(complete) - 10)


@pytest.mark.parametrize("content", [b"", b"no header", b"\x00" * 1000])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_without_a_nifti_header(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    with pytest.raises(ValueError, match=r"^not a NIfTI file"):
        check_nifti(path)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("compressed", [True, False])
def test_compression_that_contradicts_the_name(tmp_path, kind, ending, compressed):
    """The file is intact, and what to do is said."""
    path = tmp_path / f"a{ending}"
    content = kind(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_bytes()
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert check_nifti(path) == []
    text = explain_compression(path)
    if compressed == (ending == ".nii.gz"):
        assert text is None
    else:
        assert f"rename it to {'a.nii.gz' if compressed else 'a.nii'}" in text
    path.write_bytes(gzip.compress(content[:-1]) if compressed else content[:-1])
    with pytest.raises(ValueError, match=r"^truncated"):
        check_nifti(path)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_header_without_spacing(tmp_path, value):
    path = small(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[84:88] = np.float32(value).tobytes()  # pixdim[2]
    path.write_bytes(content)
    (note,) = check_nifti(path)
    assert f" 1 x {value:g} x 1 " in note


def test_a_data_type_that_nobody_knows(tmp_path):
    path = small(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[70:72] = np.int16(4711).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^not a NIfTI file"):
        check_nifti(path)


def test_a_file_that_itk_reads_instead(tmp_path):
    path = small(tmp_path / "a.nii.gz")
    assert find_shadowing_file(path) is None
    other = small(tmp_path / "a.nii")
    assert (find_shadowing_file(path), find_shadowing_file(other)) == (other, None)


@pytest.mark.parametrize("name", ["a.png", "a.nrrd", "a.mha", "a.gz"])
def test_files_of_other_formats_are_not_checked(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    check_nifti(tmp_path / name)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_name_that_would_abort_itk(tmp_path, ending):
    """A name in Latin-1, as in archives from Windows. ITK does not raise an exception: the process is gone."""
    path = tmp_path / os.fsdecode(b"caf\xe9" + ending.encode())
    small(tmp_path / f"a{ending}").rename(path)
    with pytest.raises(ValueError, match="not valid UTF-8"):
        check_nifti(path)
    small(tmp_path / f"caf\N{LATIN SMALL LETTER E WITH ACUTE}{ending}")
    assert check_nifti(tmp_path / f"caf\N{LATIN SMALL LETTER E WITH ACUTE}{ending}") == []
