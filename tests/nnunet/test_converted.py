"""nnU-Net's own commands with converted data sets: integrity check, planning, training on the split, prediction."""

import json

import pytest
from support import downloads
from support.workspace import TRAINER, Workspace, shrink

SETS = {"synapse": 21, "colondb": 22, "clinicdb": 23, "isic2017": 24, "folder": 25}


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Workspace:
    """Every layout, converted, checked and planned by one command of nnU-Net."""
    workspace = Workspace(tmp_path_factory.mktemp("converted"))
    folders = {name: workspace.root / "sources" / name for name in SETS}
    sources = {
        "synapse": downloads.btcv(folders["synapse"]),
        "colondb": downloads.colondb(folders["colondb"]),
        "clinicdb": downloads.clinicdb(folders["clinicdb"], "tif"),
        "isic2017": downloads.isic2017(folders["isic2017"]),
        "folder": downloads.nuclei(folders["folder"], 12),
    }
    for name, number in SETS.items():
        options = "--foreground nucleus" if name == "folder" else ""
        workspace.run(f"xattnres convert {name} {sources[name]} --dataset-id {number} --workers 1 {options}")
    numbers = " ".join(map(str, SETS.values()))
    workspace.run(f"nnUNetv2_plan_and_preprocess -d {numbers} --verify_dataset_integrity --no_pp -np 1 -npfp 1")
    return workspace


@pytest.mark.parametrize("name", SETS)
def test_nnunet_plans_for_it(converted, name):
    dataset = converted.dataset(SETS[name])
    plans = json.loads((converted.preprocessed / dataset / "nnUNetPlans.json").read_text())
    assert "2d" in plans["configurations"]
    own = converted.raw / dataset / "splits_final.json"
    assert own.exists() == (name != "synapse")
    if own.exists():
        copied = converted.preprocessed / dataset / "splits_final.json"
        assert json.loads(copied.read_text()) == json.loads(own.read_text())
    scheme = plans["configurations"]["2d"]["normalization_schemes"]
    assert scheme == (["CTNormalization"] if name == "synapse" else ["ZScoreNormalization"] * 3)


def test_trains_predicts_and_is_evaluated(converted):
    number = SETS["folder"]
    dataset = converted.dataset(number)
    converted.run(f"nnUNetv2_plan_and_preprocess -d {number} -c 2d -np 1 -npfp 1")
    converted.edit_plans(number, shrink)
    converted.run(f"nnUNetv2_train {number} 2d 0 -tr {TRAINER} -device cpu")
    (fold,) = json.loads((converted.raw / dataset / "splits_final.json").read_text())
    validated = {f.stem for f in (converted.model(number, "2d") / "fold_0" / "validation").glob("*.png")}
    assert validated == set(fold["val"])
    images, labels = (converted.raw / dataset / folder for folder in ("imagesTs", "labelsTs"))
    predictions, summary = converted.root / "predictions", converted.root / "predictions" / "summary.json"
    converted.run(
        f"nnUNetv2_predict -d {number} -c 2d -f 0 -tr {TRAINER} -i {images} -o {predictions} -device cpu -npp 1 -nps 1"
    )
    files = f"-djfile {predictions}/dataset.json -pfile {predictions}/plans.json"
    converted.run(f"nnUNetv2_evaluate_folder {labels} {predictions} {files} -np 1")
    converted.run(f"xattnres evaluate {predictions} {labels} --workers 1 --json scores.json")
    theirs = json.loads(summary.read_text())
    ours = json.loads((converted.root / "scores.json").read_text())
    assert ours["mean"]["nucleus"]["dice"] == pytest.approx(theirs["mean"]["1"]["Dice"])
    assert ours["mean"]["nucleus"]["iou"] == pytest.approx(theirs["mean"]["1"]["IoU"])
    assert len(ours["cases"]) == len(list(labels.iterdir()))
