"""Stock nnU-Net and XAttnRes with trainings so short that two CPU cores can train five folds of both."""

import torch
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerVanillaAdam

from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes


class nnUNetTrainerShort(nnUNetTrainerVanillaAdam):
    """6 epochs of 50 iterations, with Adam, because SGD learns too slowly, and without mirroring in prediction."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 6, 50, 5

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):  # noqa: N802
        augmentation = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None  # mirroring takes four predictions instead of one
        return augmentation


class nnUNetTrainerXAttnResShort(nnUNetTrainerShort, nnUNetTrainerXAttnRes):
    """The same training with XAttnRes."""
