"""Where things lie: the trainer files, nnU-Net's own folders, and EMCAD's encoder weights."""

from pathlib import Path

PATH_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
"""nnU-Net's environment variables for its folders."""

WEIGHTS_VARIABLE = "XATTNRES_ENCODER_WEIGHTS"
"""Environment variable: a file of ImageNet weights for EMCAD's encoder, or `random` for none."""


def trainers_path() -> Path:
    """The folder for `nnUNet_extTrainer`: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "trainers"
    return installed if installed.is_dir() else package.parent / "trainers"
