"""Stock nnU-Net and XAttnRes for as long as two CPU cores can do it for five folds."""

import torch
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerVanillaAdam

from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes


class nnUNetTrainerShort(nnUNetTrainerVanillaAdam):
    """6 epochs of 50 iterations with Adam, by which SGD has learned nothing yet, and no mirroring in prediction."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 6, 50, 5

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None  # with it, four predictions instead of one
        return found


class nnUNetTrainerXAttnResShort(nnUNetTrainerShort, nnUNetTrainerXAttnRes):
    """The same with XAttnRes."""
