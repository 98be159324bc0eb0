"""Both forms of Synapse against their source: voxels, labels, geometry, and the published 18 and 12 cases."""

import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from support import converted, downloads

from nnunet_xattnres.convert.splits import published

TEST = {f"case{n:04d}" for n in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)}
NINE_CLASSES = {**{v: v for v in range(9)}, 5: 0, 9: 0, 10: 0, 11: 5, 12: 0, 13: 0}
"""EMCAD's map of BTCV's labels."""

EIGHT = ["spleen", "right kidney", "left kidney", "gallbladder", "pancreas", "liver", "stomach", "aorta"]


@pytest.fixture(scope="module")
def btcv(tmp_path_factory):
    return downloads.btcv(tmp_path_factory.mktemp("btcv"))


def source_arrays(btcv, case):
    files = (
        btcv / "Training" / kind / f"{name}{case[4:]}.nii.gz" for kind, name in (("img", "img"), ("label", "label"))
    )
    return [nibabel.load(file) for file in files]


def mapped(labels, table):
    return np.vectorize(table.get)(labels)


def written(dataset, case):
    part = "Ts" if case in TEST else "Tr"
    return dataset / f"images{part}" / f"{case}_0000.nii.gz", dataset / f"labels{part}" / f"{case}.nii.gz"


def test_nifti(convert, btcv):
    dataset = convert("synapse", btcv)
    parts = converted.split(dataset)
    assert parts["test"] == TEST and not parts["val"] and len(parts["train"]) == 18
    assert not (dataset / "splits_final.json").exists()  # nnU-Net makes its own five folds
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0} | {name: value for value, name in enumerate(EIGHT, 1)}
    for case in sorted(parts["train"] | TEST):
        (image, label), (new_image, new_label) = source_arrays(btcv, case), map(nibabel.load, written(dataset, case))
        np.testing.assert_array_equal(new_image.dataobj, np.clip(image.dataobj, -125, 275))
        np.testing.assert_array_equal(new_label.dataobj, mapped(np.asarray(label.dataobj), NINE_CLASSES))
        for new in (new_image, new_label):
            np.testing.assert_allclose(new.affine, image.affine, atol=1e-6)
            np.testing.assert_allclose(new.header.get_zooms(), image.header.get_zooms())
    records = converted.manifest(dataset)
    assert records["case0005"]["source"][1]["file"] == "Training/label/label0005.nii.gz"
    counts = np.bincount(converted.content(written(dataset, "case0005")[1]).ravel())
    assert records["case0005"]["voxels"] == {str(v): int(n) for v, n in enumerate(counts)}


def test_thirteen_organs_and_all_hu_from_the_archive(convert, btcv, tmp_path):
    archive = downloads.zipped(btcv, tmp_path / "RawData.zip")
    dataset = convert("synapse", archive, "--organs", 13, "--no-window")
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    assert list(labels.values()) == list(range(14))
    assert (labels["esophagus"], labels["pancreas"], labels["left adrenal gland"]) == (5, 11, 13)
    image, label = source_arrays(btcv, "case0007")
    new_image, new_label = map(nibabel.load, written(dataset, "case0007"))
    np.testing.assert_array_equal(new_image.dataobj, image.dataobj)
    np.testing.assert_array_equal(new_label.dataobj, label.dataobj)
    assert converted.manifest(dataset)["case0007"]["changes"] == []


@pytest.mark.parametrize("order", downloads.ORDERS)
def test_arrays(convert, tmp_path, order):
    source = downloads.transunet(tmp_path, order)
    dataset = convert("synapse", source, "--source-labels", order, "--spacing", 0.75, 0.75, 3)
    parts = converted.split(dataset)
    assert parts["test"] == TEST and len(parts["train"]) == 18
    names = {"paper": EIGHT, "transunet": sorted(EIGHT, key=lambda n: n.split()[::-1])}.get(order)
    table = {0: 0} | ({v: EIGHT.index(n) + 1 for v, n in enumerate(names, 1)} if names else NINE_CLASSES)
    volume = h5py.File(source / "test_vol_h5" / "case0022.npy.h5")
    slices = [np.load(source / "train_npz" / f"case0040_slice{n:03d}.npz") for n in range(195)]
    with volume:
        sources = {"case0022": (volume["image"][()], volume["label"][()])}
    sources["case0040"] = tuple(np.stack([s[key] for s in slices]) for key in ("image", "label"))
    for file in slices:
        file.close()
    for case, (image, label) in sources.items():
        new_image, new_label = map(nibabel.load, written(dataset, case))
        np.testing.assert_allclose(np.asarray(new_image.dataobj).T, image * 400.0 - 125, atol=1e-3)
        assert new_image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asarray(new_label.dataobj).T, mapped(label.astype(int), table))
        np.testing.assert_allclose(new_image.header.get_zooms(), (0.75, 0.75, 3))


def test_published_lists():
    entries = published("synapse")
    assert {case for case, entry in entries.items() if entry.split == "test"} == TEST
    slices = {int(case[4:]): entry.slices for case, entry in entries.items() if entry.split == "train"}
    assert slices == downloads.TRANSUNET_SLICES and sum(slices.values()) == 2211


def test_a_source_of_some_cases_with_skip_bad(convert, btcv, tmp_path):
    source = shutil.copytree(btcv, tmp_path / "RawData")
    for n in (1, 5):
        (source / "Training" / "img" / f"img{n:04d}.nii.gz").unlink()
        (source / "Training" / "label" / f"label{n:04d}.nii.gz").unlink()
    dataset = convert("synapse", source, "--skip-bad")
    assert len(converted.cases(dataset / "imagesTr")) == 17 and len(converted.cases(dataset / "imagesTs")) == 11
    (left_out,) = json.loads((dataset / "manifest.json").read_text())["left_out"]
    assert left_out["problem"].endswith("2 of the 30 cases on the list are not there or not usable: case0001, case0005")
