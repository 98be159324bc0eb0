"""Every network of this package in trainings of five short epochs, to see that it learns (benchmarks/networks.yaml)."""

import torch
from nnUNetTrainerShort import nnUNetTrainerShort

from nnunet_xattnres.training.csap import nnUNetTrainerCSAP
from nnunet_xattnres.training.csap_planned import nnUNetTrainerCSAPPlanned
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes
from nnunet_xattnres.training.usema import nnUNetTrainerUSEMA, nnUNetTrainerUSEMAXAttnRes


class nnUNetTrainerSmoke(nnUNetTrainerShort):
    """5 epochs instead of 6."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 5


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
