"""Region-based training and the ignore label."""

import json
import shutil

import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from support.workspace import TRAINER, shrink

REGIONS = {"labels": {"background": 0, "hippocampus": [1, 2], "posterior": 2}, "regions_class_order": [1, 2]}
IGNORE = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": 3}}


def ignore_the_upper_third(file):
    image = sitk.ReadImage(file)
    array = sitk.GetArrayFromImage(image)
    array[len(array) * 2 // 3 :] = 3
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, file)


@pytest.mark.parametrize(
    ("number", "name", "description", "change", "heads"),
    [(5, "Regions", REGIONS, None, 2), (6, "Ignore", IGNORE, ignore_the_upper_third, 3)],
    ids=["regions", "ignore"],
)
def test_trains_and_validates(workspace, number, name, description, change, heads):
    source, target = workspace.raw / workspace.dataset(4), workspace.raw / f"Dataset{number:03d}_{name}"
    shutil.copytree(source, target)
    file = target / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | description))
    if change:
        for label in (target / "labelsTr").iterdir():
            change(label)
    workspace.run(f"nnUNetv2_plan_and_preprocess -d {number} -c 2d -np 1 -npfp 1")
    workspace.edit_plans(number, shrink)
    workspace.run(f"nnUNetv2_train {number} 2d 0 -tr {TRAINER} -device cpu")
    fold = workspace.model(number, "2d") / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == ({"(1, 2)", "2"} if name == "Regions" else {"1", "2"})
    weights = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)["network_weights"]
    assert weights["decoder.seg_layers.0.weight"].shape[0] == heads
