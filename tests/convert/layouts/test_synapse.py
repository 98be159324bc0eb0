"""Both forms of Synapse compared with their source: voxels, labels, geometry, and the published 18 and 12 cases."""

import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from support import converted, downloads, faults

from nnunet_xattnres.convert.splits import published_list

TEST_CASES = {f"case{n:04d}" for n in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)}
NINE_CLASSES = {**{v: v for v in range(9)}, 5: 0, 9: 0, 10: 0, 11: 5, 12: 0, 13: 0}
"""EMCAD's map of BTCV's labels."""

PAPER_ORGANS = ["spleen", "right kidney", "left kidney", "gallbladder", "pancreas", "liver", "stomach", "aorta"]


@pytest.fixture(scope="module")
def btcv(tmp_path_factory):
    return downloads.btcv(tmp_path_factory.mktemp("btcv"))


def source_files(btcv, case):
    """Image and label map of a case."""
    return [nibabel.load(btcv / "Training" / kind / f"{kind}{case[4:]}.nii.gz") for kind in ("img", "label")]


def map_labels(labels, table):
    return np.vectorize(table.get)(labels)


def written_files(dataset, case):
    """Image and label map of a case in the dataset."""
    part = "Ts" if case in TEST_CASES else "Tr"
    return dataset / f"images{part}" / f"{case}_0000.nii.gz", dataset / f"labels{part}" / f"{case}.nii.gz"


def test_nifti(convert, btcv):
    dataset = convert("synapse", btcv)
    splits = converted.cases_by_split(dataset)
    assert splits["test"] == TEST_CASES and not splits["val"] and len(splits["train"]) == 18
    assert not (dataset / "splits_final.json").exists()  # nnU-Net makes its own five folds
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0} | {name: value for value, name in enumerate(PAPER_ORGANS, 1)}
    for case in sorted(splits["train"] | TEST_CASES):
        image, label = source_files(btcv, case)
        new_image, new_label = map(nibabel.load, written_files(dataset, case))
        np.testing.assert_array_equal(new_image.dataobj, np.clip(image.dataobj, -125, 275))
        np.testing.assert_array_equal(new_label.dataobj, map_labels(np.asarray(label.dataobj), NINE_CLASSES))
        for new in (new_image, new_label):
            np.testing.assert_allclose(new.affine, image.affine, atol=1e-6)
            np.testing.assert_allclose(new.header.get_zooms(), image.header.get_zooms())
    records = converted.records(dataset)
    assert records["case0005"]["source"][1]["file"] == "Training/label/label0005.nii.gz"
    counts = np.bincount(converted.read_array(written_files(dataset, "case0005")[1]).ravel())
    assert records["case0005"]["voxels"] == {str(v): int(n) for v, n in enumerate(counts)}


def test_thirteen_organs_and_all_hu_from_the_archive(convert, btcv, tmp_path):
    archive = downloads.zipped(btcv, tmp_path / "RawData.zip")
    dataset = convert("synapse", archive, "--organs", 13, "--no-window")
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert list(labels.values()) == list(range(14))
    assert (labels["esophagus"], labels["pancreas"], labels["left adrenal gland"]) == (5, 11, 13)
    image, label = source_files(btcv, "case0007")
    new_image, new_label = map(nibabel.load, written_files(dataset, "case0007"))
    np.testing.assert_array_equal(new_image.dataobj, image.dataobj)
    np.testing.assert_array_equal(new_label.dataobj, label.dataobj)
    assert converted.records(dataset)["case0007"]["changes"] == []


@pytest.mark.parametrize(
    "order", ["transunet", pytest.param("paper", marks=pytest.mark.slow), pytest.param("btcv", marks=pytest.mark.slow)]
)
def test_arrays(convert, tmp_path, order):
    source = downloads.transunet(tmp_path, order)
    dataset = convert("synapse", source, "--source-labels", order, "--spacing", 0.75, 0.75, 3)
    splits = converted.cases_by_split(dataset)
    assert splits["test"] == TEST_CASES and len(splits["train"]) == 18
    names = {"paper": PAPER_ORGANS, "transunet": sorted(PAPER_ORGANS, key=lambda n: n.split()[::-1])}.get(order)
    table = {0: 0} | ({v: PAPER_ORGANS.index(n) + 1 for v, n in enumerate(names, 1)} if names else NINE_CLASSES)
    volume = h5py.File(source / "test_vol_h5" / "case0022.npy.h5")
    slices = [np.load(source / "train_npz" / f"case0040_slice{n:03d}.npz") for n in range(195)]
    with volume:
        sources = {"case0022": (volume["image"][()], volume["label"][()])}
    sources["case0040"] = tuple(np.stack([s[key] for s in slices]) for key in ("image", "label"))
    for file in slices:
        file.close()
    for case, (image, label) in sources.items():
        new_image, new_label = map(nibabel.load, written_files(dataset, case))
        np.testing.assert_allclose(np.asarray(new_image.dataobj).T, image * 400.0 - 125, atol=1e-3)
        assert new_image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asarray(new_label.dataobj).T, map_labels(label.astype(int), table))
        np.testing.assert_allclose(new_image.header.get_zooms(), (0.75, 0.75, 3))


def test_published_lists():
    listed_cases = published_list("synapse")
    assert {case for case, listed in listed_cases.items() if listed.split == "test"} == TEST_CASES
    slices = {int(case[4:]): listed.slices for case, listed in listed_cases.items() if listed.split == "train"}
    assert slices == downloads.TRANSUNET_SLICES and sum(slices.values()) == 2211


def test_missing_cases_are_skipped(convert, btcv, tmp_path):
    source = shutil.copytree(btcv, tmp_path / "RawData")
    for n in (1, 5):
        (source / "Training" / "img" / f"img{n:04d}.nii.gz").unlink()
        (source / "Training" / "label" / f"label{n:04d}.nii.gz").unlink()
    dataset = convert("synapse", source, "--skip-bad")
    assert len(converted.case_names(dataset / "imagesTr")) == 17
    assert len(converted.case_names(dataset / "imagesTs")) == 11
    (skipped,) = converted.read_manifest(dataset)["left_out"]
    problem = (skipped["file"], skipped["code"], skipped["problem"])
    faults.check_problems([problem], [("the source", "incomplete", "2 of the 30", "case0001, case0005")])


@pytest.fixture
def two_cases(tmp_path):
    """The folder Training of BTCV with two of the 30 cases."""
    return downloads.btcv(tmp_path, (1, 5), unlabelled=False) / "Training"


MISSING_28 = ("the source", "incomplete", "28 of the 30")
LABEL_5 = "Training/label/label0005.nii.gz"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda s: faults.set_voxel(s / "label" / "label0005.nii.gz", 14, np.uint8),
            (LABEL_5, "unknown-label", "14", "0, 1, 2"),
        ),
        (
            lambda s: faults.set_geometry(s / "label" / "label0005.nii.gz", Origin=(1, 2, 3)),
            (LABEL_5, "geometry-mismatch", "Training/img/img0005.nii.gz"),
        ),
        (lambda s: (s / "label" / "label0005.nii.gz").unlink(), ("Training/img/img0005.nii.gz", "mask-missing")),
        (lambda s: faults.truncate(s / "img" / "img0001.nii.gz"), ("Training/img/img0001.nii.gz", "damaged")),
    ],
    ids=["label 14", "label elsewhere", "no label", "truncated"],
)
def test_nifti_with_faults(refuse, two_cases, change, expected):
    change(two_cases)
    faults.check_listed(refuse("synapse", two_cases.parent), [expected, MISSING_28])


def make_arrays(root, order="transunet"):
    """Three of TransUNet's cases: one of 88 slices, and two volumes."""
    slices, volumes = root / "Synapse" / "train_npz", root / "Synapse" / "test_vol_h5"
    for folder in (slices, volumes):
        folder.mkdir(parents=True)
    for k, (image, label) in enumerate(zip(*downloads.make_transunet_arrays(88, 27, order), strict=True)):
        np.savez(slices / f"case0027_slice{k:03d}.npz", image=image, label=label)
    for n in (1, 2):
        with h5py.File(volumes / f"case{n:04d}.npy.h5", "w") as file:
            file["image"], file["label"] = downloads.make_transunet_arrays(6, n, order)
    return root / "Synapse"


TRANSUNET = ("--source-labels", "transunet")
SLICE = "train_npz/case0027_slice057.npz"
VOLUME = "test_vol_h5/case0002.npy.h5"
MISSING_27 = ("the source", "incomplete", "27 of the 30")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: (s / SLICE).unlink(), ("case0027", "incomplete", "1 ", "057")),
        (
            lambda s: [(s / "more").mkdir(), shutil.copy(s / SLICE, s / "more")],
            (SLICE, "duplicate", "more/case0027_slice057.npz"),
        ),
        (lambda s: faults.truncate(s / SLICE), (SLICE, "damaged")),
        (lambda s: faults.truncate(s / VOLUME), (VOLUME, "damaged")),
        (
            lambda s: shutil.copy(s / VOLUME, s / "test_vol_h5" / "case0027.npy.h5"),
            ("test_vol_h5/case0027.npy.h5", "duplicate"),
        ),
        (lambda s: shutil.copy(s / VOLUME, s / "test_vol_h5" / "case0077.npy.h5"), ("case0077", "not-listed")),
    ],
    ids=["missing slice", "slice twice", "truncated slice", "truncated volume", "slices and volume", "not on the list"],
)
def test_arrays_with_faults(refuse, tmp_path, change, expected):
    """Faults within files are in test_arrays.py."""
    source = make_arrays(tmp_path)
    change(source)
    faults.check_listed(refuse("synapse", source, *TRANSUNET), [expected, MISSING_27])


@pytest.mark.parametrize(
    ("order", "options"), [("paper", ["transunet"]), ("transunet", ["paper"]), ("transunet", ["btcv", "--organs", 13])]
)
def test_another_order_of_the_labels(refuse, tmp_path, order, options):
    lines = refuse("synapse", make_arrays(tmp_path, order), "--source-labels", *options)
    faults.check_listed(lines, [("the source", "label-order", "liver", "--source-labels"), MISSING_27])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "--source-labels"), ([*TRANSUNET, "--organs", "13"], "--organs"),
        ([*TRANSUNET, "--spacing", "0", "1", "1"], "--spacing"), ([*TRANSUNET, "--spacing", "inf", "1", "1"], "inf"),
        ([*TRANSUNET, "--no-window"], "--no-window"),
    ],
    ids=["no order", "13 organs", "spacing of 0", "infinite spacing", "no window"],
)  # fmt: skip
def test_invalid_options_of_arrays(refuse_line, tmp_path, options, text):
    assert text in refuse_line("synapse", make_arrays(tmp_path), *options)


def test_options_of_arrays_for_nifti(refuse_line, two_cases):
    assert "--source-labels" in refuse_line("synapse", two_cases.parent, *TRANSUNET)


def test_nifti_and_arrays(refuse_line, tmp_path):
    source = make_arrays(tmp_path)
    downloads.btcv(source, (1, 5), unlabelled=False)
    refuse_line("synapse", source, *TRANSUNET)


def test_no_synapse(refuse_line, tmp_path):
    assert "img0001.nii.gz" in refuse_line("synapse", downloads.nuclei(tmp_path, 6))
