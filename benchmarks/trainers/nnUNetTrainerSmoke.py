"""Every network of this package in trainings of five short epochs, to see that it learns (benchmarks/networks.yaml)."""

import torch
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerVanillaAdam

from nnunet_xattnres.training.csap import nnUNetTrainerCSAP
from nnunet_xattnres.training.csap_planned import nnUNetTrainerCSAPPlanned
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes
from nnunet_xattnres.training.usema import nnUNetTrainerUSEMA, nnUNetTrainerUSEMAXAttnRes


class nnUNetTrainerSmoke(nnUNetTrainerVanillaAdam):
    """5 epochs of 50 iterations, with Adam, because SGD learns too slowly, and without mirroring in prediction."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 5, 50, 5

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802
        augmentation = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None  # mirroring takes four predictions instead of one
        return augmentation


class nnUNetTrainerXAttnResSmoke(nnUNetTrainerSmoke, nnUNetTrainerXAttnRes):
    """The same training of the planned network with XAttnRes."""


class nnUNetTrainerCSAPSmoke(nnUNetTrainerSmoke, nnUNetTrainerCSAP):
    """The same training of CSAP."""


class nnUNetTrainerCSAPPlannedSmoke(nnUNetTrainerSmoke, nnUNetTrainerCSAPPlanned):
    """The same training of the planned network with propagated attention."""


class nnUNetTrainerUSEMASmoke(nnUNetTrainerSmoke, nnUNetTrainerUSEMA):
    """The same training of the planned network with SEMA blocks."""


class nnUNetTrainerUSEMAXAttnResSmoke(nnUNetTrainerSmoke, nnUNetTrainerUSEMAXAttnRes):
    """The same training with SEMA blocks and XAttnRes."""
