"""The synthetic Hippocampus folder has the files and the labels of the real one."""

import json

import numpy as np
import SimpleITK as sitk  # noqa: N813
from support import hippocampus


def test_synthetic_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(hippocampus, "SOURCE", tmp_path / "nowhere")
    task = hippocampus.decathlon_folder(tmp_path)
    description = json.loads((task / "dataset.json").read_text())
    assert len(description["training"]) == hippocampus.TRAINING
    assert len(description["test"]) == hippocampus.TEST
    for entry in description["training"]:
        image, label = (sitk.GetArrayFromImage(sitk.ReadImage(task / entry[key])) for key in ("image", "label"))
        assert image.shape == label.shape
        assert set(np.unique(label)) == {0, 1, 2}
