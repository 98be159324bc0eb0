"""Stock nnU-Net and XAttnRes for 5 epochs of 25 iterations: what two CPU cores can do for five folds."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes


class nnUNetTrainerShort(nnUNetTrainer):
    def initialize(self):
        super().initialize()
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 5, 25, 5
        self.optimizer, self.lr_scheduler = self.configure_optimizers()


class nnUNetTrainerXAttnResShort(nnUNetTrainerXAttnRes):
    def initialize(self):
        super().initialize()
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 5, 25, 5
        self.optimizer, self.lr_scheduler = self.configure_optimizers()
