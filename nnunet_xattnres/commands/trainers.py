"""xattnres trainers: print the folder for nnU-Net's environment variable nnUNet_extTrainer.

The path stands alone on standard output:
  export nnUNet_extTrainer="$(xattnres trainers)"
Several folders may be joined by a colon, as in PATH.
"""

import argparse

from ..paths import trainers_path


def configure(parser: argparse.ArgumentParser) -> None:
    """This command takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    print(trainers_path())
    return 0
