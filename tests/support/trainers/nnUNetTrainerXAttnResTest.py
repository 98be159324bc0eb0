"""Trainings of a few iterations, for nnU-Net's own commands."""

import os
import signal

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_xattnres.training.emcad import nnUNetTrainerEMCADXAttnRes_PaperBinary
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes, nnUNetTrainerXAttnResGated


class nnUNetTrainerXAttnResTest(nnUNetTrainerXAttnRes):
    epochs = 1

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 1


class nnUNetTrainerEMCADXAttnResTest(nnUNetTrainerEMCADXAttnRes_PaperBinary):
    epochs = 1

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1


class nnUNetTrainerXAttnResTestResume(nnUNetTrainerXAttnResGated):
    """With gates. If XATTNRES_TEST_KILL is set, it kills itself and its workers in the second of three epochs."""

    epochs = 3

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = 4, 1, 1
        self.steps = 0

    def train_step(self, batch):
        self.steps += 1
        if self.steps == 6 and "XATTNRES_TEST_KILL" in os.environ:
            os.killpg(0, signal.SIGKILL)
        return super().train_step(batch)


class nnUNetTrainerTest(nnUNetTrainer):
    """Stock, for as few iterations."""

    def initialize(self):
        super().initialize()
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 3, 1
