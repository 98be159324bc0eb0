"""nnUNetv2_train with the XAttnRes trainer: its files, --val, --c after a kill, -pretrained_weights."""

import json
import re
import signal

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from support.workspace import TRAINER, shrink

from nnunet_xattnres import XAttnResResidualEncoderUNet
from nnunet_xattnres.ops.dispatch import resolve_backend

RESUME = "nnUNetTrainerXAttnResTestResume"


def checkpoint(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)


def test_training_writes_the_files_of_nnunet(workspace, trained_2d):
    fold = workspace.model(4, "2d") / "fold_0"
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "progress.png", "debug.json", "validation"} <= {
        p.name for p in fold.iterdir()
    }
    assert "Mean Validation Dice" in trained_2d
    backend = f"'{resolve_backend(None, 'cpu')}'"
    assert any("XAttnRes" in line and backend in line and "cpu" in line for line in trained_2d.splitlines())
    weights = checkpoint(workspace.model(4, "2d"))["network_weights"]
    assert any(name.startswith("xattnres.") for name in weights)


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
    workspace.run(command, exit_code=-signal.SIGKILL, XATTNRES_TEST_KILL="1")
    fold = workspace.model(4, "2d", RESUME) / "fold_0"
    assert torch.load(fold / "checkpoint_latest.pth", weights_only=False)["current_epoch"] == 1
    assert not (fold / "checkpoint_final.pth").exists()

    output = workspace.run(f"{command} --c")
    assert "Epoch 0" not in output
    assert "Epoch 1" in output
    assert "Epoch 2" in output
    final = checkpoint(workspace.model(4, "2d", RESUME))
    assert final["current_epoch"] == 3
    # the log shows the gates after the last epoch, those of the final weights
    (line,) = re.findall(r"Gates of XAttnRes after epoch 2 .*: (1: .*)", output)
    gates = {n.split(".")[1]: weight.item() for n, weight in final["network_weights"].items() if n.endswith(".gate")}
    assert line.strip() == ", ".join(f"{stage}: {gate:.4f}" for stage, gate in gates.items())
    assert all(gates.values())


@pytest.fixture
def in_workspace(workspace, monkeypatch):
    """Set the environment variables of the workspace, for nnU-Net's functions in this process."""
    for variable, value in workspace.env.items():
        monkeypatch.setenv(variable, value)


def fresh(configuration, trainer=TRAINER, plans="nnUNetPlans"):
    return get_trainer_from_args("4", configuration, 1, trainer, plans, device=torch.device("cpu"))


def test_pretrained_weights_are_the_start(workspace, trained_2d, in_workspace):
    source = workspace.model(4, "2d") / "fold_0" / "checkpoint_final.pth"
    trainer = fresh("2d")
    maybe_load_checkpoint(trainer, False, False, str(source))
    pretrained = torch.load(source, weights_only=False)["network_weights"]
    weights = trainer.network.state_dict()
    # nnU-Net leaves the segmentation heads out
    heads = {name for name in weights if ".seg_layers." in name}
    assert [n for n in weights if n not in heads and not torch.equal(weights[n], pretrained[n])] == []
    assert not any(torch.equal(weights[n], pretrained[n]) for n in heads if n.endswith("weight"))


def test_weights_of_a_stock_network_are_refused(in_workspace, tmp_path):
    stock = fresh("2d", "nnUNetTrainer")
    stock.initialize()
    torch.save({"network_weights": stock.network.state_dict()}, tmp_path / "stock.pth")
    with pytest.raises(AssertionError, match=r"Key xattnres\..* is missing in the pretrained model weights"):
        maybe_load_checkpoint(fresh("2d"), False, False, str(tmp_path / "stock.pth"))


@pytest.mark.parametrize(
    "planner",
    [pytest.param(f"nnUNetPlannerResEnc{size}", marks=pytest.mark.slow) for size in ("M", "L", "XL")],
)
def test_resenc_presets_take_a_training_step(workspace, in_workspace, planner):
    """Every ResEnc preset at its planned width, 2d and 3d_fullres, through nnU-Net's own training step."""
    plans = planner.replace("nnUNetPlanner", "nnUNet").replace("ResEnc", "ResEncUNet") + "Plans"
    workspace.run(f"nnUNetv2_plan_experiment -d 4 -pl {planner}")
    for configuration in ("2d", "3d_fullres"):
        trainer = fresh(configuration, plans=plans)
        trainer.initialize()
        assert type(trainer.network) is XAttnResResidualEncoderUNet
        size = trainer.configuration_manager.patch_size
        scales = trainer._get_deep_supervision_scales()
        target = [torch.ones(2, 1, *(round(s * f) for s, f in zip(size, scale, strict=True))) for scale in scales]
        loss = trainer.train_step({"data": torch.randn(2, 1, *size), "target": target})["loss"]
        assert np.isfinite(loss)


def test_resenc_trains_and_predicts(workspace):
    workspace.run("nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerResEncM")
    model = f"-tr {TRAINER} -p nnUNetResEncUNetMPlans -device cpu"
    workspace.edit_plans(4, shrink, "nnUNetResEncUNetMPlans")
    assert "Mean Validation Dice" in workspace.run(f"nnUNetv2_train 4 3d_fullres 0 {model}")
    images, out = workspace.raw / workspace.dataset(4) / "imagesTs", workspace.root / "predicted_resenc"
    workspace.run(f"nnUNetv2_predict -d 4 -f 0 -c 3d_fullres {model} -i {images} -o {out} -npp 1 -nps 1")
    assert len(list(out.glob("*.nii.gz"))) == len(list(images.iterdir()))
