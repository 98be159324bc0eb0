"""TransUNet's arrays: intensities are mapped to HU, the spacing is set, and files with faults are refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from support import faults

from nnunet_xattnres.convert.arrays import ArrayReader, read_arrays
from nnunet_xattnres.convert.case import SourceCase
from nnunet_xattnres.convert.labels import LabelMap
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import SourceFile

LABELS = LabelMap({0: 0, 1: 1}, {"background": 0, "organ": 1})
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
IMAGE = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
LABEL = (IMAGE > 0.5).astype(np.float32)


@pytest.mark.parametrize("integers", [True, False])
def test_hu_and_spacing(tmp_path, integers):
    window = HU.clip(-125, 275)
    image = (window / 400 + 125 / 400).astype(np.float32)
    image[0, 0, 0] = (0 if integers else 0.3) / 400
    window[0, 0, 0] = -125
    np.savez(tmp_path / "a.npz", image=image, label=(HU > 0).astype(np.float32))
    case = SourceCase("1", "train", (SourceFile("a.npz", tmp_path / "a.npz"),))
    data = ArrayReader(LABELS, (1.0, 2.0, 3.0)).read(case)
    array = sitk.GetArrayFromImage(data.image.image)
    assert array.dtype == (np.int16 if integers else np.float32)
    np.testing.assert_allclose(array, window, atol=0 if integers else 0.31)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(data.labels.image), HU > 0)
    assert data.image.image.GetSpacing() == data.labels.image.GetSpacing() == (1, 2, 3)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save_npz(path, **arrays):
    np.savez(path, **{"image": IMAGE, "label": LABEL} | arrays)


def save_npz_without_label(path):
    np.savez(path, image=IMAGE)


def save_pickles(path):
    payload = np.array([Payload(path.parent / "executed")], dtype=object)
    save_npz(path, image=payload, label=payload)


def save_truncated(path):
    if path.suffix == ".npz":
        save_npz(path)
    else:
        with h5py.File(path, "w") as file:
            file["image"], file["label"] = IMAGE, LABEL
    faults.truncate(path)


@pytest.mark.parametrize(
    ("name", "save", "code", "values"),
    [
        ("a.npz", save_npz_without_label, "damaged", ["label"]),
        ("a.npz", save_pickles, "damaged", []),
        ("a.npz", save_truncated, "damaged", []),
        ("a.npy.h5", save_truncated, "damaged", []),
        ("a.npy.h5", lambda path: path.write_text("hello"), "damaged", []),
        ("a.npz", lambda path: save_npz(path, image=IMAGE * 1.5), "value-range", ["1.5"]),
        ("a.npz", lambda path: save_npz(path, image=IMAGE * np.nan), "not-finite", []),
        ("a.npz", lambda path: save_npz(path, image=IMAGE[1:]), "size-mismatch", ["4x6", "5x6"]),
    ],
    ids=["no label", "pickle", "truncated npz", "truncated h5", "text", "beyond 1", "NaN", "shapes differ"],
)
def test_files_with_faults(tmp_path, name, save, code, values):
    save(tmp_path / name)
    with pytest.raises(UnusableError) as error:
        read_arrays(SourceFile(name, tmp_path / name))
    problem = error.value.problem
    assert (problem.file, problem.code) == (name, code)
    assert all(value in problem.text for value in values)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("arrays", "code", "values"),
    [
        ({"label": LABEL * 1.5}, "unknown-label", ["1.5"]),
        ({"image": IMAGE[1:], "label": LABEL[1:]}, "size-mismatch", ["4x6", "1.npz", "5x6"]),
    ],
    ids=["label of 1.5", "slice of another size"],
)
def test_slices_with_faults(tmp_path, arrays, code, values):
    save_npz(tmp_path / "1.npz")
    save_npz(tmp_path / "2.npz", **arrays)
    files = tuple(SourceFile(name, tmp_path / name) for name in ("1.npz", "2.npz"))
    with pytest.raises(UnusableError) as error:
        ArrayReader(LABELS, (1.0, 1.0, 1.0)).read(SourceCase("1", "train", files))
    problem = error.value.problem
    assert (problem.file, problem.code) == ("2.npz", code)
    assert all(value in problem.text for value in values)


def test_a_single_slice_is_not_a_volume(tmp_path):
    save_npz(tmp_path / "1.npz")
    case = SourceCase("1", "train", (SourceFile("1.npz", tmp_path / "1.npz"),))
    with pytest.raises(UnusableError) as error:
        ArrayReader(LABELS, (1.0, 1.0, 1.0)).read(case)
    assert error.value.problem.code == "dimensions"
