"""Every trainer in the box is found by nnU-Net's own look-up under its name."""

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_xattnres.paths import trainers_path
from nnunet_xattnres.training.catalogue import catalogue


def test_nnunet_finds_every_trainer(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    names = list(catalogue())
    assert {"nnUNetTrainerXAttnRes", "nnUNetTrainerXAttnRes_1epoch", "nnUNetTrainerXAttnRes_500epochs"} <= set(names)
    for name in names:
        assert recursive_find_trainer_class_by_name(name).__name__ == name


def test_trainer_files_are_thin():
    for file in trainers_path().glob("*.py"):
        assert len(file.read_text().splitlines()) <= 15
