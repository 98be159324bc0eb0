"""The MNI152 dataset: nnU-Net's files, disjoint training and test cases, and labels that agree with nilearn's maps."""

import json

import nibabel
import numpy as np
import pytest
from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template
from skimage.io import imread

from nnunet_xattnres.demo import mni


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_MNI152"
    return folder, mni.convert(folder)


def names(folder):
    return {p.name for p in folder.iterdir()}


def test_files_and_dataset_json(dataset):
    folder, held_out = dataset
    description = json.loads((folder / "dataset.json").read_text())
    assert len(names(folder / "imagesTr")) == len(names(folder / "labelsTr")) == description["numTraining"] == 42
    assert names(folder / "imagesTs") == {f"{case}_0000.png" for case in held_out}
    assert names(folder / "labelsTs") == {f"{case}.png" for case in held_out}
    assert not names(folder / "labelsTr") & names(folder / "labelsTs")
    assert "Louis Collins" in description["licence"]


def test_every_class_is_in_every_slice(dataset):
    folder, _ = dataset
    for file in (folder / "labelsTr").iterdir():
        assert set(np.unique(imread(file))) == {0, 1, 2}


def test_labels_agree_with_nilearns_own_maps(dataset):
    """nilearn loads the same maps with its own functions; where a probability is high, the label must agree."""
    folder, held_out = dataset
    grey, white = (nibabel.funcs.as_closest_canonical(f(resolution=1)).get_fdata() for f in
                   (load_mni152_gm_template, load_mni152_wm_template))  # fmt: skip
    case = held_out[4]
    label = np.rot90(imread(folder / "labelsTs" / f"{case}.png"), -1)
    z = int(case.removeprefix("slice_"))
    window = (slice(18, 178), slice(20, 212), z)
    assert label.shape == grey[window].shape
    assert (label[grey[window] > 0.7] == 1).mean() > 0.99
    assert (label[white[window] > 0.7] == 2).mean() > 0.99
