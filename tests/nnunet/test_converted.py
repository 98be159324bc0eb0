"""nnU-Net's own commands accept converted datasets: integrity check, planning, training, prediction, evaluation."""

import json

import pytest
from support import downloads
from support.workspace import TRAINER, Workspace, shrink

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.convert.splits import published_list

NUMBERS = {"synapse": 21, "colondb": 22, "clinicdb": 23, "isic2017": 24, "folder": 25}
NUM_FRAMES = {"train": 8, "val": 2, "test": 2}


def some_frames(name) -> list[int]:
    """Numbers of some frames of every split, from the published list."""
    listed = published_list(name)
    by_split = {split: [n for n, case in listed.items() if case.split == split] for split in NUM_FRAMES}
    return [int(n) for split, count in NUM_FRAMES.items() for n in by_split[split][:count]]


def make_source(name, root):
    """A small source of a layout."""
    makers = {
        "synapse": lambda: downloads.btcv(root, (1, 2, 5, 6, 7, 9)),
        "colondb": lambda: downloads.colondb(root, some_frames(name)),
        "clinicdb": lambda: downloads.clinicdb(root, "tif", some_frames(name)),
        "isic2017": lambda: downloads.isic2017(root),
        "folder": lambda: downloads.nuclei(root, 12),
    }
    return makers[name]()


def convert_and_plan(root, names) -> Workspace:
    """Convert small sources; nnU-Net checks, plans and preprocesses all datasets with one command."""
    workspace = Workspace(root)
    with pytest.MonkeyPatch.context() as patch:
        for folder in (workspace.raw, workspace.preprocessed, workspace.results):
            patch.setenv(folder.name, str(folder))
        for name in names:
            source = make_source(name, root / "sources" / name)
            options = ["--foreground", "nucleus"] if name == "folder" else ["--skip-bad"]
            command = ["convert", name, str(source), "--dataset-id", str(NUMBERS[name]), "--workers", "1", *options]
            assert main(command) == 0
    numbers = " ".join(str(NUMBERS[name]) for name in names)
    workspace.run(f"nnUNetv2_plan_and_preprocess -d {numbers} --verify_dataset_integrity -c 2d -np 1 -npfp 1")
    return workspace


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Workspace:
    """A dataset of volumes and one of 2-D images."""
    return convert_and_plan(tmp_path_factory.mktemp("converted"), ["synapse", "folder"])


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Workspace:
    """The other layouts, which are 2-D images as well."""
    return convert_and_plan(tmp_path_factory.mktemp("others"), ["colondb", "clinicdb", "isic2017"])


def check_plans(workspace, name) -> None:
    """nnU-Net has chosen the normalisation by the channel names, and copied the splits."""
    dataset = workspace.dataset(NUMBERS[name])
    plans = json.loads((workspace.preprocessed / dataset / "nnUNetPlans.json").read_text())
    scheme = plans["configurations"]["2d"]["normalization_schemes"]
    assert scheme == (["CTNormalization"] if name == "synapse" else ["ZScoreNormalization"] * 3)
    splits = workspace.raw / dataset / "splits_final.json"
    assert splits.exists() == (name != "synapse")
    if splits.exists():
        copied = workspace.preprocessed / dataset / "splits_final.json"
        assert json.loads(copied.read_text()) == json.loads(splits.read_text())


@pytest.mark.parametrize("name", ["synapse", "folder"])
def test_plans(converted, name):
    check_plans(converted, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["colondb", "clinicdb", "isic2017"])
def test_plans_of_other_layouts(others, name):
    check_plans(others, name)


def test_training_prediction_and_evaluation(converted):
    number = NUMBERS["folder"]
    dataset = converted.dataset(number)
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
    expected = json.loads(summary.read_text())["mean"]["1"]
    actual = json.loads((converted.root / "scores.json").read_text())
    assert actual["mean"]["nucleus"]["dice"] == pytest.approx(expected["Dice"])
    assert actual["mean"]["nucleus"]["iou"] == pytest.approx(expected["IoU"])
    assert len(actual["cases"]) == len(list(labels.iterdir()))
