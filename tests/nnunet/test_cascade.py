"""The cascade: a low-resolution XAttnRes model feeds a full-resolution one."""

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from support.workspace import TRAINER


def add_cascade(plans):
    """Add the configurations that the planner writes for larger images: a lower resolution, and the cascade on it."""
    configurations = plans["configurations"]
    spacing = configurations["3d_fullres"]["spacing"]
    configurations["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [1.5 * s for s in spacing],
        "batch_size": 2,
        "next_stage": "3d_cascade_fullres",
    }
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def test_the_network_takes_the_labels_of_the_previous_stage(workspace, monkeypatch):
    for variable, value in workspace.env.items():
        monkeypatch.setenv(variable, value)
    workspace.edit_plans(4, add_cascade)
    trainer = get_trainer_from_args("4", "3d_cascade_fullres", 0, TRAINER, "nnUNetPlans", device=torch.device("cpu"))
    trainer.initialize()
    size, channels = trainer.configuration_manager.patch_size, 1 + len(trainer.label_manager.foreground_labels)
    assert channels == 3
    scales = trainer._get_deep_supervision_scales()
    target = [torch.ones(2, 1, *(round(s * f) for s, f in zip(size, scale, strict=True))) for scale in scales]
    loss = trainer.train_step({"data": torch.randn(2, channels, *size), "target": target})["loss"]
    assert torch.isfinite(torch.as_tensor(loss))


@pytest.mark.slow  # two trainings and two predictions; the test above takes seconds
def test_cascade(workspace):
    workspace.edit_plans(4, add_cascade)
    workspace.run("nnUNetv2_preprocess -d 4 -c 3d_lowres -np 1")
    # fold "all" validates on every case and so predicts the next stage's input for every case
    workspace.run(f"nnUNetv2_train 4 3d_lowres all -tr {TRAINER} -device cpu")
    assert len(list((workspace.model(4, "3d_lowres") / "predicted_next_stage" / "3d_cascade_fullres").iterdir())) >= 10
    output = workspace.run(f"nnUNetv2_train 4 3d_cascade_fullres 0 -tr {TRAINER} -device cpu")
    assert "Mean Validation Dice" in output

    images, low, full = (
        workspace.raw / workspace.dataset(4) / "imagesTs",
        workspace.root / "low",
        workspace.root / "full",
    )
    predict = f"nnUNetv2_predict -d 4 -tr {TRAINER} -i {images} -device cpu -npp 1 -nps 1"
    workspace.run(f"{predict} -c 3d_lowres -f all -o {low}")
    workspace.run(f"{predict} -c 3d_cascade_fullres -f 0 -o {full} -prev_stage_predictions {low}")
    assert {p.name for p in full.glob("*.nii.gz")} == {p.name for p in low.glob("*.nii.gz")} != set()
