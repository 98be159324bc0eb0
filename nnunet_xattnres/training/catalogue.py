"""Every trainer in the box, read from the trainer files."""

import re
import runpy

from ..utils.paths import trainers_path
from .trainer import XAttnResTrainer


def catalogue(lengths: bool = False) -> dict[str, type[XAttnResTrainer]]:
    """The trainer classes of `trainers/` by name, in the order of the files; with every length of each, or without."""
    found = {}
    for file in sorted(trainers_path().glob("*.py")):
        for name, value in runpy.run_path(str(file)).items():
            if isinstance(value, type) and issubclass(value, XAttnResTrainer):
                found[name] = value
    return found if lengths else {n: c for n, c in found.items() if not re.search(r"_\d+epochs?$", n)}
