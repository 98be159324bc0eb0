"""A folder to share: nnU-Net's predictor gives the same logits with it, and nothing of this machine is in it."""

import json
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.trained_model import DATASET, save_model

from nnunet_xattnres.export.model_card import RequiredCode
from nnunet_xattnres.export.model_folder import write_model_folder
from nnunet_xattnres.training.lookup import find_trainer
from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.paths import trainers_path

FOLDS = ["0", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    return tmp_path


def load(model, folds=FOLDS):
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    return predictor


def logits(model, folds=FOLDS):
    """What nnU-Net predicts with a model for a random image, larger than a patch."""
    predictor = load(model, folds)
    image = torch.randn(1, 1, 20, 16, generator=torch.Generator().manual_seed(0))
    return predictor.predict_logits_from_preprocessed_data(image)


def checkpoint_of(model, fold="0"):
    # it can be read without running code of whoever has made it
    return torch.load(model / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)


def change_checkpoint(model, fold="0", **entries):
    file = model / f"fold_{fold}" / "checkpoint_final.pth"
    torch.save(torch.load(file, weights_only=False) | entries, file)


SLOW = ("nnUNetTrainerUSEMABotXAttnRes", "nnUNetTrainerNoSkip", "nnUNetTrainerCSAPPlanned")


@pytest.mark.parametrize(
    "trainer",
    [
        "nnUNetTrainerXAttnResGated_PaperBinary_50epochs",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_networks_that_plans_can_name_need_no_trainer(folder, monkeypatch, trainer):
    model, out = save_model(folder / "model", trainer), folder / "out"
    expected = logits(model)
    write_model_folder(model, out, FOLDS)
    monkeypatch.delenv("nnUNet_extTrainer")
    assert torch.equal(logits(out), expected)
    plans, trained = (json.loads((path / "plans.json").read_text()) for path in (out, model))
    assert list(plans["configurations"]) == ["2d"] and plans["plans_name"] != trained["plans_name"]
    new, old = (content["configurations"]["2d"] for content in (plans, trained))
    assert {key for key in old if new[key] != old[key]} == {"architecture"}

    write_model_folder(out, folder / "again", ["1"])  # a model of one of nnU-Net's own trainers
    assert json.loads((folder / "again" / "plans.json").read_text()) == plans
    assert checkpoint_of(folder / "again", "1")["trained_by"] == trainer


def test_other_networks_keep_their_trainer(folder):
    model = save_model(folder / "model", "nnUNetTrainerPaperUNetXAttnRes_5epochs", folds=(0,))
    write_model_folder(model, folder / "out", ["0"])
    assert checkpoint_of(folder / "out")["trainer_name"] == "nnUNetTrainerPaperUNetXAttnRes_5epochs"
    plans = [json.loads((path / "plans.json").read_text()) for path in (model, folder / "out")]
    assert plans[0] == plans[1]
    assert torch.equal(logits(folder / "out", ["0"]), logits(model, ["0"]))


OWN_TRAINERS = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes
from nnunet_xattnres.training.trainer_classes import trainer_class


class nnUNetTrainerOwnOptions(nnUNetTrainerXAttnRes):
    network_options = {"gate": True, "skip": False}


class nnUNetTrainerOwnNetwork(nnUNetTrainerXAttnRes):
    @classmethod
    def build_network(cls, *arguments):
        return trainer_class("nnUNetTrainerXAttnResReplace").build_network(*arguments)


class nnUNetTrainerOwnRate(trainer_class("nnUNetTrainerPaperUNetXAttnRes")):
    initial_lr = 0.1


class nnUNetTrainerOwnGates(trainer_class("nnUNetTrainerPaperUNetXAttnRes")):
    network_options = {"gate": True}


class nnUNetTrainerOwnLength(nnUNetTrainer):
    __module__ = "nnunetv2.training.nnUNetTrainer.own_trainers"  # as if the file were in nnU-Net's folder


class nnUNetTrainerOwnInNnUNet(nnUNetTrainer):
    __module__ = "nnunetv2.training.nnUNetTrainer.own_trainers"

    @staticmethod
    def build_network_architecture(plans_manager, *arguments, **options):
        return nnUNetTrainer.build_network_architecture(plans_manager, *arguments, **options)
"""


@pytest.mark.parametrize(
    ("own", "expected", "required_code"),
    [
        ("nnUNetTrainerOwnOptions", "nnUNetTrainer", RequiredCode.PACKAGE),
        ("nnUNetTrainerOwnNetwork", "nnUNetTrainerOwnNetwork", RequiredCode.OWN_TRAINER),
        ("nnUNetTrainerOwnRate", "nnUNetTrainerPaperUNetXAttnRes", RequiredCode.TRAINERS),
        ("nnUNetTrainerOwnGates", "nnUNetTrainerOwnGates", RequiredCode.OWN_TRAINER),
        ("nnUNetTrainerOwnLength", "nnUNetTrainer", RequiredCode.NOTHING),
        ("nnUNetTrainerOwnInNnUNet", "nnUNetTrainerOwnInNnUNet", RequiredCode.OWN_TRAINER),
        ("nnUNetTrainerBN", "nnUNetTrainerBN", RequiredCode.NOTHING),  # nnU-Net's
    ],
)
def test_trainers_of_users_are_replaced_if_they_inherit_how_the_network_is_built(
    folder, monkeypatch, own, expected, required_code
):
    (folder / "own").mkdir()
    (folder / "own" / "own_trainers.py").write_text(OWN_TRAINERS)
    monkeypatch.setenv("nnUNet_extTrainer", f"{trainers_path()}:{folder / 'own'}")
    model = save_model(folder / "model", folds=(0,))
    plans = load(model, ["0"])
    network = find_trainer(own).build_network_architecture(plans.plans_manager, plans.configuration_manager, 1, 2)
    change_checkpoint(model, network_weights=network.state_dict(), trainer_name=own)
    before = logits(model, ["0"])
    written = write_model_folder(model, folder / "out", ["0"])
    assert checkpoint_of(folder / "out")["trainer_name"] == expected
    assert f"what it needs to predict: {required_code.value}" in written.notes
    if expected != own:
        monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    assert torch.equal(logits(folder / "out", ["0"]), before)


OWN_NETWORK = """
from dynamic_network_architectures.architectures.unet import PlainConvUNet


class MyUNet(PlainConvUNet):
    pass
"""


def test_plans_that_name_a_network_of_the_user(folder, monkeypatch):
    (folder / "own_network_of_a_test.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(folder)
    model = save_model(folder / "model", "nnUNetTrainerNoSkip", folds=(0,))
    plans = json.loads((model / "plans.json").read_text())
    architecture = plans["configurations"]["2d"]["architecture"]
    for name, required_code in (
        (architecture["network_class_name"], RequiredCode.NOTHING),
        ("own_network_of_a_test.MyUNet", RequiredCode.OWN_NETWORK),
    ):
        architecture["network_class_name"] = name
        (model / "plans.json").write_text(json.dumps(plans))
        arguments = PlansManager(plans), PlansManager(plans).get_configuration("2d"), 1, 2
        weights = find_trainer("nnUNetTrainer").build_network_architecture(*arguments).state_dict()
        change_checkpoint(model, network_weights=weights, trainer_name="nnUNetTrainer")
        out = folder / required_code.name
        assert f"what it needs to predict: {required_code.value}" in write_model_folder(model, out, ["0"]).notes
        assert (f"`{name}`" in (out / "README.md").read_text()) == (required_code is RequiredCode.OWN_NETWORK)


def test_nothing_of_the_training_or_the_machine_is_in_it(folder):
    files = {"labels": f"{folder}/labels/patient_7.nii.gz", "images": [f"{folder}/images/patient_7_0000.nii.gz"]}
    kept = {**DATASET, "name": "Hearts", "description": "Hearts, https://example.org/hearts", "numTraining": 20}
    dataset = {
        **kept, "dataset": {"patient_7": files}, "reference": f"downloaded to {folder}",
        "licence": r"see C:\my_machine", "cases_with_artefacts": ["patient_7"],
    }  # fmt: skip
    model = save_model(folder / "model", "nnUNetTrainerXAttnResGated", dataset=dataset)
    case = {"prediction_file": f"{folder}/patient_7.nii.gz", "metrics": {"1": {"Dice": 0.5}}}
    summary = {"foreground_mean": {"Dice": 0.5}, "mean": {"1": {"Dice": 0.5, "TP": 3}}, "metric_per_case": [case]}
    cross_validation = model / "crossval_results_folds_0_1"
    for path in (model / "fold_0" / "validation", cross_validation):
        path.mkdir()
        (path / "summary.json").write_text(json.dumps(summary))
    (cross_validation / "postprocessing.pkl").write_bytes(pickle.dumps(([], [])))
    debug = {"torch_version": "2.9.9", "output_folder": str(folder), "hostname": "my_machine"}
    (model / "fold_0" / "debug.json").write_text(json.dumps(debug))
    for fold in FOLDS:
        arguments = {"configuration": "2d", "device": torch.device("cpu"), "secret": str(folder)}
        state = {"state": {0: torch.ones(5)}, "log_file": str(folder)}
        change_checkpoint(model, fold, init_args=arguments, optimizer_state=state, logging=state, current_epoch=7)
    written = write_model_folder(model, folder / "out", FOLDS)
    out = folder / "out"
    assert set(map(str, written.files)) == {
        "README.md", "SHA256SUMS", "dataset.json", "plans.json", "fold_0/checkpoint_final.pth",
        "fold_1/checkpoint_final.pth", "fold_0/validation/summary.json", "crossval_results_folds_0_1/summary.json",
        "crossval_results_folds_0_1/postprocessing.pkl",
    }  # fmt: skip
    for path in written.files:
        content = (out / path).read_bytes()
        assert not any(word in content for word in (str(folder).encode(), b"patient_7", b"my_machine")), path
    assert json.loads((out / "dataset.json").read_text()) == kept
    assert "left out of dataset.json: dataset, reference, licence, cases_with_artefacts" in written.notes
    assert checkpoint_of(out).keys() == {
        "network_weights", "trainer_name", "trained_by", "trained_checkpoint", "init_args",
        "inference_allowed_mirroring_axes", "current_epoch",
    }  # fmt: skip
    del summary["metric_per_case"]
    assert json.loads((out / "fold_0" / "validation" / "summary.json").read_text()) == summary
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=out, check=True)
    card = (out / "README.md").read_text()
    front_matter = yaml.safe_load(card.split("---\n")[1])
    assert front_matter["library_name"] == "nnunet" and "license" not in front_matter
    assert all(fact in card for fact in ("Hearts", "2.9.9", "7 epochs", "0.5000", "fold 0", "all cases of these folds"))


def test_a_cascade(folder, monkeypatch):
    model = save_model(folder / "model", folds=(0,), configuration="3d_cascade_fullres")
    write_model_folder(model, folder / "out", ["0"])
    monkeypatch.delenv("nnUNet_extTrainer")
    assert load(folder / "out", ["0"]).configuration_manager.previous_stage_name == "3d_lowres"


def test_an_empty_folder_is_filled_in_place_and_another_one_is_not(folder):
    """A mount point and the target of a link cannot be replaced by another folder."""
    model, target, out = save_model(folder / "model", folds=(0,)), folder / "target", folder / "below" / "out"
    target.mkdir()
    out.parent.mkdir()
    out.symlink_to(target)
    inode = target.stat().st_ino
    change_checkpoint(model, inference_allowed_mirroring_axes=None)
    (model / "fold_0" / "checkpoint_final.pth").rename(model / "fold_0" / "checkpoint_best.pth")
    written = write_model_folder(model, out, ["0"], "checkpoint_best.pth")
    assert out.is_symlink() and target.stat().st_ino == inode
    assert {path.name for path in target.iterdir()} == {path.parts[0] for path in written.files}
    assert checkpoint_of(out)["inference_allowed_mirroring_axes"] is None
    before = (out / "README.md").read_bytes()
    with pytest.raises(UserError, match="below/out"):
        write_model_folder(model, out, ["0"], "checkpoint_best.pth")
    assert (out / "README.md").read_bytes() == before

    write_model_folder(out, folder / "again", ["0"])
    assert "`checkpoint_best.pth`" in (folder / "again" / "README.md").read_text()


def test_an_empty_folder_stays_empty_if_a_file_cannot_be_moved_into_it(folder, monkeypatch):
    model, out = save_model(folder / "model", folds=(0,)), folder / "out"
    out.mkdir()
    rename = Path.rename

    def fail_to_rename_plans(path, target):
        if target == out / "plans.json":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_to_rename_plans)
    with pytest.raises(UserError, match="No space left"):
        write_model_folder(model, out, ["0"])
    assert not any(out.iterdir())


@pytest.mark.parametrize("name", ["model", "model/shared", "link/shared"])
def test_the_model_and_folders_in_it_are_not_written(folder, name):
    model = save_model(folder / "model", folds=(0,))
    (folder / "link").symlink_to(model)
    before = sorted(model.rglob("*"))
    with pytest.raises(UserError, match="folder of the model"):
        write_model_folder(model, folder / name, ["0"])
    assert sorted(model.rglob("*")) == before


def test_paths_that_prediction_may_need_are_kept_and_reported(folder):
    model = save_model(folder / "model", folds=(0,), dataset={**DATASET, "channel_names": {"0": "/data/mri"}})
    plans = json.loads((model / "plans.json").read_text()) | {"made_from": "the data in /data/hearts"}
    (model / "plans.json").write_text(json.dumps(plans))
    notes = [note for note in write_model_folder(model, folder / "out", ["0"]).notes if "local path" in note]
    assert [note.split()[0] for note in notes] == ["dataset.json", "plans.json"]
    assert "/data/mri" in notes[0] and "/data/hearts" in notes[1]
    assert json.loads((folder / "out" / "plans.json").read_text())["made_from"] == plans["made_from"]


@pytest.mark.parametrize("case", ["fold", "trainer", "weights", "summary", "unknown trainer", "no checkpoint"])
def test_what_cannot_be_written_leaves_nothing_behind(folder, case):
    model, folds = save_model(folder / "model"), FOLDS
    fact = "fold_1"
    if case == "fold":
        folds, fact = ["0", "3"], "fold_3"
    elif case == "trainer":
        change_checkpoint(model, "1", trainer_name="nnUNetTrainerXAttnResGated")
    elif case == "weights":
        change_checkpoint(model, "1", network_weights={})
        fact = "cannot be loaded"
    elif case == "summary":
        (model / "fold_1" / "validation").mkdir()
        (model / "fold_1" / "validation" / "summary.json").write_text('{"mean": 1}')
    elif case == "unknown trainer":
        change_checkpoint(model, "0", trainer_name="nnUNetTrainerXAttnRess")
        fact = "nnUNetTrainerXAttnRess"
    else:
        (model / "fold_1" / "checkpoint_final.pth").write_text("text")
    with pytest.raises(UserError, match=fact):
        write_model_folder(model, folder / "out", folds)
    assert [path.name for path in folder.iterdir()] == ["model"]
