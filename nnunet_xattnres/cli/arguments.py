"""Types of command line arguments, and the options with which several commands name a trained model."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def positive_int(text: str) -> int:
    """Convert a whole number of at least 1.

    >>> positive_int("12")
    12

    Raises:
        argparse.ArgumentTypeError: if the text is anything else.
    """
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """Convert a finite number above 0.

    >>> positive_float("0.5")
    0.5

    Raises:
        argparse.ArgumentTypeError: if the text is anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add -m, -f and -chk, which name a trained model; `load_named_model` reads them."""
    parser.add_argument("-m", "--model", type=Path, required=True, metavar="DIR", help="the folder of a trained model")
    parser.add_argument("-f", "--folds", nargs="+", metavar="FOLD", help="folds (default: all that are trained)")
    parser.add_argument(
        "-chk", "--checkpoint", default="checkpoint_final.pth", metavar="NAME",
        help="the file name of the checkpoints (default: %(default)s)",
    )  # fmt: skip


def add_previous_stage_option(parser: Any) -> None:
    """Add --previous-stage to a parser or a group of options."""
    parser.add_argument("--previous-stage", type=Path, metavar="DIR", help="for a cascade: predictions of 3d_lowres")


def load_named_model(predictor: "nnUNetPredictor", arguments: argparse.Namespace) -> list[str]:
    """Initialise a predictor with the model that -m, -f, -chk and --previous-stage name; returns the folds.

    Raises:
        UserError: if the model cannot be loaded, lacks one of the folds, or is of a cascade and no previous stage is
            named, or the other way round.
    """
    from ..utils.trained_models import check_previous_stage, find_folds, load_model

    folds = find_folds(arguments.model, arguments.folds, arguments.checkpoint)
    load_model(predictor, arguments.model, folds, arguments.checkpoint)
    check_previous_stage(predictor, arguments.model, arguments.previous_stage)
    return folds
