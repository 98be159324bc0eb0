"""Where the trainer files lie: inside the installed package, or at the top of a checkout."""

from pathlib import Path


def trainers_path() -> Path:
    """The folder for nnU-Net's environment variable `nnUNet_extTrainer`."""
    package = Path(__file__).resolve().parent
    installed = package / "trainers"
    return installed if installed.is_dir() else package.parent / "trainers"
