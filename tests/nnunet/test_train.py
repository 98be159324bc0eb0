"""nnUNetv2_train with the XAttnRes trainer: what it leaves behind, --val, --c after a kill, -pretrained_weights."""

import json
import os
import signal
import time

import pytest
import torch
from support.workspace import TRAINER, shrink

RESUME = "nnUNetTrainerXAttnResTestResume"


def checkpoint(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)


def test_training_leaves_what_nnunet_leaves(workspace, trained_2d):
    fold = workspace.model(4, "2d") / "fold_0"
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "debug.json", "validation"} <= {
        p.name for p in fold.iterdir()
    }
    assert "Mean Validation Dice" in trained_2d
    weights = checkpoint(workspace.model(4, "2d"))["network_weights"]
    assert any(name.startswith("xattnres.decoder.") for name in weights)


def test_training_changes_the_pseudo_queries(workspace, trained_2d):
    weights = checkpoint(workspace.model(4, "2d"))["network_weights"]
    queries = {n: w for n, w in weights.items() if n.endswith("pseudo_query")}
    assert queries
    assert all(w.any() for w in queries.values())


def test_validation_alone_gives_the_same_figures(workspace, trained_2d):
    summary = workspace.model(4, "2d") / "fold_0" / "validation" / "summary.json"
    before = json.loads(summary.read_text())["foreground_mean"]
    summary.unlink()
    workspace.run(f"nnUNetv2_train 4 2d 0 -tr {TRAINER} --val --npz -device cpu")
    assert json.loads(summary.read_text())["foreground_mean"] == before


def test_continues_after_a_kill_in_mid_epoch(workspace):
    command = f"nnUNetv2_train 4 2d 0 -tr {RESUME} -device cpu"
    process = workspace.start(command)
    for line in process.stdout:
        if "Epoch 1" in line:
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    fold = workspace.model(4, "2d", RESUME) / "fold_0"
    assert (fold / "checkpoint_latest.pth").exists()
    assert not (fold / "checkpoint_final.pth").exists()

    output = workspace.run(f"{command} --c")
    assert "Epoch 0" not in output
    assert "Epoch 1" in output
    assert "Epoch 2" in output
    assert checkpoint(workspace.model(4, "2d", RESUME))["current_epoch"] == 3


def test_pretrained_weights_are_the_start(workspace, trained_2d, monkeypatch):
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    for variable, value in workspace.env.items():
        monkeypatch.setenv(variable, value)
    source = workspace.model(4, "2d") / "fold_0" / "checkpoint_final.pth"
    trainer = get_trainer_from_args("4", "2d", 1, TRAINER, device=torch.device("cpu"))
    maybe_load_checkpoint(trainer, False, False, str(source))
    pretrained = torch.load(source, weights_only=False)["network_weights"]
    weights = {n: w for n, w in trainer.network.state_dict().items() if n.endswith("weight")}
    for name, weight in weights.items():
        # nnU-Net leaves the segmentation heads out
        assert torch.equal(weight, pretrained[name]) == (".seg_layers." not in name), name


@pytest.mark.parametrize("planner", ["nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL"])
def test_resenc_presets_train(workspace, planner, monkeypatch):
    """Every ResEnc preset in 2d and 3d_fullres: plan, build at full width, one iteration of nnU-Net's training step."""
    from nnunetv2.run.run_training import get_trainer_from_args

    plans = planner.replace("nnUNetPlanner", "nnUNet").replace("ResEnc", "ResEncUNet") + "Plans"
    workspace.run(f"nnUNetv2_plan_experiment -d 4 -pl {planner}")
    workspace.edit_plans(
        4, lambda p: [c.update(batch_size=2) for c in p["configurations"].values() if "batch_size" in c], plans
    )
    for variable, value in workspace.env.items():
        monkeypatch.setenv(variable, value)
    for configuration in ("2d", "3d_fullres"):
        trainer = get_trainer_from_args("4", configuration, 0, TRAINER, plans, device=torch.device("cpu"))
        trainer.initialize()
        assert type(trainer.network).__name__ == "XAttnResResidualEncoderUNet"
        size = trainer.configuration_manager.patch_size
        scales = trainer._get_deep_supervision_scales()
        target = [torch.ones(2, 1, *(round(s * f) for s, f in zip(size, scale, strict=True))) for scale in scales]
        loss = trainer.train_step({"data": torch.randn(2, 1, *size), "target": target})["loss"]
        assert torch.tensor(loss).isfinite()


def test_resenc_trains_validates_and_is_found_again(workspace):
    workspace.run("nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerResEncM")
    plans = "nnUNetResEncUNetMPlans"
    workspace.edit_plans(4, shrink, plans)
    output = workspace.run(f"nnUNetv2_train 4 3d_fullres 0 -tr {TRAINER} -p {plans} -device cpu")
    assert "Mean Validation Dice" in output
