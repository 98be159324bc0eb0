"""Region-based training and the ignore label."""

import json
import shutil

import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from support.workspace import TRAINER, shrink

REGIONS = {"labels": {"background": 0, "hippocampus": [1, 2], "posterior": 2}, "regions_class_order": [1, 2]}
IGNORE = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": 3}}
NUMBERS = {"Regions": 5, "Ignore": 6}


def ignore_upper_third(file):
    """Set the upper third of the slices of a label map to the ignore label."""
    image = sitk.ReadImage(file)
    array = sitk.GetArrayFromImage(image)
    array[len(array) * 2 // 3 :] = 3
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, file)


@pytest.fixture(scope="module")
def datasets(workspace):
    """Hippocampus with regions and with an ignore label, planned and preprocessed by one command."""
    for name, description in (("Regions", REGIONS), ("Ignore", IGNORE)):
        folder = workspace.raw / f"Dataset{NUMBERS[name]:03d}_{name}"
        shutil.copytree(workspace.raw / workspace.dataset(4), folder)
        file = folder / "dataset.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | description))
    for label_map in (workspace.raw / workspace.dataset(NUMBERS["Ignore"]) / "labelsTr").iterdir():
        ignore_upper_third(label_map)
    workspace.run("nnUNetv2_plan_and_preprocess -d 5 6 -c 2d -np 1 -npfp 1")
    for number in NUMBERS.values():
        workspace.edit_plans(number, shrink)
    return workspace


@pytest.mark.parametrize(("name", "evaluated", "heads"), [("Regions", {"(1, 2)", "2"}, 2), ("Ignore", {"1", "2"}, 3)])
def test_training_and_validation(datasets, name, evaluated, heads):
    number = NUMBERS[name]
    datasets.run(f"nnUNetv2_train {number} 2d 0 -tr {TRAINER} -device cpu")
    fold = datasets.model(number, "2d") / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == evaluated
    weights = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)["network_weights"]
    assert weights["decoder.seg_layers.0.weight"].shape[0] == heads
