"""The catalogue is what nnU-Net's own look-up finds."""

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_xattnres.training.catalogue import catalogue
from nnunet_xattnres.utils.paths import trainers_path


def test_nnunet_finds_every_length(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    # every one without a length is looked up in test_variants.py
    names = catalogue(lengths=True)
    for name in ("nnUNetTrainerXAttnRes_1epoch", "nnUNetTrainerEMCAD_500epochs", "nnUNetTrainer_PaperBinary_20epochs"):
        assert recursive_find_trainer_class_by_name(name) is names[name]


def test_lengths_are_left_out_unless_asked_for():
    assert catalogue().keys() < catalogue(lengths=True).keys()
    assert not any("epoch" in name for name in catalogue())


def test_trainer_files_are_thin():
    for file in trainers_path().glob("*.py"):
        assert len(file.read_text().splitlines()) <= 15
