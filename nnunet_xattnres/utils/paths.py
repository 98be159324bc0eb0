"""The folder of the trainer files, and the names of the environment variables for folders and files."""

from pathlib import Path

PATH_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
"""nnU-Net's environment variables for its folders."""

WEIGHTS_VARIABLE = "XATTNRES_ENCODER_WEIGHTS"
"""The environment variable for the encoders of EMCAD and CSAP: a file of ImageNet weights, or `random`."""


def trainers_path() -> Path:
    """The folder for nnU-Net's variable nnUNet_extTrainer: in an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "trainers"
    return installed if installed.is_dir() else package.parent / "trainers"
