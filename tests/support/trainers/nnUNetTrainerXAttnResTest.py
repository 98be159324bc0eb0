"""Trainings of a few iterations, for nnU-Net's own commands."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_xattnres.training.trainer import nnUNetTrainerXAttnRes


class nnUNetTrainerXAttnResTest(nnUNetTrainerXAttnRes):
    epochs = 1

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 1


class nnUNetTrainerXAttnResTestResume(nnUNetTrainerXAttnRes):
    """Long enough to be killed in the middle of an epoch."""

    epochs = 3

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = 20, 1, 1


class nnUNetTrainerTest(nnUNetTrainer):
    """Stock, for as few iterations."""

    def initialize(self):
        super().initialize()
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 3, 1
