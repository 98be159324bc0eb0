"""All trainers of nnunet-xattnres, for nnU-Net's look-up; `xattnres trainers --list` prints their names.

nnU-Net imports this file and looks up a trainer by its name. The look-up creates the class.
"""

from nnunet_xattnres.training.trainer_classes import module_attribute, module_names


def __getattr__(name):
    return module_attribute(__name__, name)


def __dir__():
    return module_names(__name__)
