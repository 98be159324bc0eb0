"""Every trainer in the box, read from the trainer files."""

import runpy

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from ..paths import trainers_path


def catalogue() -> dict[str, type[nnUNetTrainer]]:
    """The trainer classes of `trainers/` by name, in the order of the files."""
    found = {}
    for file in sorted(trainers_path().glob("*.py")):
        for name, value in runpy.run_path(str(file)).items():
            if isinstance(value, type) and issubclass(value, nnUNetTrainer):
                found[name] = value
    return found
