"""Plans with XAttnRes and nnU-Net's own trainer: training, and prediction without nnUNet_extTrainer."""

import json

import pytest
import torch
from support.workspace import shrink

TRAINER = "nnUNetTrainerTest"  # a stock trainer, for a few iterations
PLANS = "nnUNetPlansXAttnRes"


@pytest.mark.slow
def test_a_stock_trainer_trains_and_predicts(workspace, tmp_path):
    output = workspace.run(f"xattnres plan -d 4 --name {PLANS}")
    assert f"{PLANS}.json" in output
    workspace.edit_plans(4, shrink, PLANS)
    data = workspace.preprocessed / workspace.dataset(4)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    workspace.run(f"nnUNetv2_train 4 2d 0 -p {PLANS} -tr {TRAINER} -device cpu")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # the data are shared
    model = workspace.model(4, "2d", TRAINER, PLANS)
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert any(name.startswith("xattnres.") for name in checkpoint["network_weights"])
    assert json.loads((model / "plans.json").read_text())["plans_name"] == PLANS

    # with nnU-Net's own trainer, which is there where the model is used
    checkpoint["trainer_name"] = "nnUNetTrainer"
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    images = workspace.raw / workspace.dataset(4) / "imagesTs"
    workspace.run(
        f"nnUNetv2_predict_from_modelfolder -m {model} -f 0 -device cpu -npp 1 -nps 1 -i {images} -o {tmp_path}",
        nnUNet_extTrainer="",
    )
    assert len(list(tmp_path.glob("*.nii.gz"))) == len(list(images.iterdir()))
