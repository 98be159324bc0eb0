"""nnU-Net's own commands with EMCAD and the paper's binary recipe on RGB images, and with unsuitable data."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

TRAINER = "nnUNetTrainerEMCADXAttnResTest"
NUMBER = 7


@pytest.fixture(scope="module")
def discs(workspace):
    """Ten RGB images of 70 x 83 pixels with a disc; returns the folder of the last two, which are for prediction."""
    rng = np.random.default_rng(0)
    dataset = workspace.raw / f"Dataset{NUMBER:03d}_Discs"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (dataset / folder).mkdir(parents=True)
    for n in range(12):
        y, x = np.mgrid[:70, :83] - rng.integers(20, 50, 2)[:, None, None]
        inside = (x**2 + y**2 < rng.integers(100, 300)).astype(np.uint8)
        image = (rng.integers(0, 80, (70, 83, 3)) + 120 * inside[..., None]).astype(np.uint8)
        folder = "imagesTr" if n < 10 else "imagesTs"
        sitk.WriteImage(sitk.GetImageFromArray(image, isVector=True), dataset / folder / f"disc_{n:02d}_0000.png")
        if n < 10:
            sitk.WriteImage(sitk.GetImageFromArray(inside), dataset / "labelsTr" / f"disc_{n:02d}.png")
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "disc": 1}, "numTraining": 10,
        "file_ending": ".png",
    }  # fmt: skip
    (dataset / "dataset.json").write_text(json.dumps(description))
    workspace.run(f"nnUNetv2_plan_and_preprocess -d {NUMBER} -c 2d -np 1 -npfp 1")
    workspace.edit_plans(NUMBER, lambda plans: plans["configurations"]["2d"].update(batch_size=2))
    return dataset / "imagesTs"


@pytest.mark.slow  # tests/training has the trainer without the commands
def test_trains_validates_and_predicts(workspace, discs):
    options = f"-tr {TRAINER} -device cpu"
    output = workspace.run(f"nnUNetv2_train {NUMBER} 2d 0 {options}", XATTNRES_ENCODER_WEIGHTS="random")
    assert "Mean Validation Dice" in output
    assert "random weights" in output and "RANDOM" not in output  # capitals are for the warning
    predicted = workspace.root / "predicted_discs"
    # prediction does not read the file
    workspace.run(
        f"nnUNetv2_predict -d {NUMBER} -f 0 -c 2d {options} -i {discs} -o {predicted} -npp 1 -nps 1",
        XATTNRES_ENCODER_WEIGHTS="/no/such/file",
    )
    files = sorted(predicted.glob("*.png"))
    assert [p.name for p in files] == ["disc_10.png", "disc_11.png"]
    for path in files:
        segmentation = sitk.GetArrayFromImage(sitk.ReadImage(path))
        assert segmentation.shape == (70, 83)
        assert set(np.unique(segmentation)) <= {0, 1}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("4 3d_fullres 0 -tr nnUNetTrainerEMCAD", "2-D"),
        ("4 2d 0 -tr nnUNetTrainerXAttnRes_PaperBinary", "foreground labels"),
    ],
)
def test_an_error_before_anything_is_written(workspace, command, reason):
    output = workspace.run(f"nnUNetv2_train {command} -device cpu", exit_code=1)
    assert output.strip().splitlines()[-1].startswith(f"ValueError: {command.split()[-1]}")
    assert reason in output.strip().splitlines()[-1]
    assert not list(workspace.results.glob(f"*/{command.split()[-1]}__*"))
