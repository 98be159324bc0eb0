"""The lengths are nnU-Net's own, by the same names, and do what they say."""

import inspect
import pickle
import re

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs

from nnunet_xattnres.training.lengths import with_lengths
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes

STOCK = {
    name: int(re.search(r"num_epochs = (\d+)", inspect.getsource(cls)).group(1))
    for name, cls in vars(nnUNetTrainer_Xepochs).items()
    if re.fullmatch(r"nnUNetTrainer_\d+epochs?", name)
}


def test_the_same_lengths_as_stock():
    ours = {name.replace("XAttnRes", ""): cls.epochs for name, cls in with_lengths(nnUNetTrainerXAttnRes).items()}
    assert ours.pop("nnUNetTrainer") is None
    assert ours == STOCK


def test_every_look_up_finds_the_same_class_and_it_can_be_pickled():
    for cls in with_lengths(nnUNetTrainerXAttnRes).values():
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert with_lengths(nnUNetTrainerXAttnRes)[cls.__name__] is cls


def test_every_class_has_the_name_it_is_found_by():
    for name, cls in with_lengths(nnUNetTrainerXAttnRes).items():
        assert cls.__name__ == name
        assert issubclass(cls, nnUNetTrainerXAttnRes)


@pytest.mark.parametrize(("suffix", "epochs"), [("", 1000), ("_1epoch", 1), ("_250epochs", 250)])
def test_number_of_epochs_in_training(prepared_plans, suffix, epochs):
    cls = with_lengths(nnUNetTrainerXAttnRes)[f"nnUNetTrainerXAttnRes{suffix}"]
    trainer = cls(**prepared_plans, configuration="2d", fold=0, device=torch.device("cpu"))
    assert trainer.num_epochs == epochs
    assert trainer.output_folder.split("/")[-2].startswith(f"{cls.__name__}__")
