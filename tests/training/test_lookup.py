"""Trainers are found as nnU-Net finds them; a name that is not found gives an error of one line."""

import os
import re

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_xattnres.training.lookup import find_trainer, look_up, nearest
from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.paths import trainers_path

BASELINE, OTHER = "nnUNetTrainer", "nnUNetTrainerXAttnRes_1epoch"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))


def test_by_nnunets_look_up():
    assert find_trainer(BASELINE) is nnUNetTrainer
    assert find_trainer(OTHER).__name__ == OTHER


@pytest.mark.parametrize(
    ("name", "near"),
    [("nnUNetTrainerXAttnRess", "nnUNetTrainerXAttnRes"), ("nnUNetTrainr", "nnUNetTrainer"), ("Other", None)],
)
def test_unknown_names(name, near):
    with pytest.raises(UserError, match=rf"\b{name}\b") as raised:
        find_trainer(name)
    text = str(raised.value)
    assert "\n" not in text and "xattnres doctor" in text
    assert re.findall(r"\bmean (\w+)", text) == ([near] if near else [])


def test_a_file_that_cannot_be_imported(tmp_path, monkeypatch):
    """nnU-Net imports every file that it searches."""
    (tmp_path / "nnUNetTrainerBroken.py").write_text("raise RuntimeError('first\\nsecond')\n")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path), os.environ["nnUNet_extTrainer"]]))
    with pytest.raises(UserError, match=r"\bnnUNetTrainerBroken\b.*first") as raised:
        find_trainer("nnUNetTrainerBroken")
    assert "\n" not in str(raised.value)


def test_nothing_is_printed(capsys):
    """The messages of nnU-Net's search are suppressed."""
    assert look_up(OTHER).__name__ == OTHER
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "near"), [("nnUNetTrainr", "nnUNetTrainer"), ("nnUNetTrainer", None), ("", None), ("Other", None)]
)
def test_the_nearest_name(name, near):
    assert nearest(name, ["nnUNetTrainer", "nnUNetTrainerXAttnRes"]) == near
