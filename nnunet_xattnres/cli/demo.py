"""xattnres demo: train stock nnU-Net and XAttnRes on real images, and compare their predictions.

The demo converts slices of the MNI152 brain template to an nnU-Net dataset. The package nilearn includes the template,
so nothing is downloaded. Then it plans, trains both trainers for the same number of epochs, predicts held-out slices,
prints a table, and draws a figure. The steps are nnU-Net's own commands, which the demo prints. All files are in the
folder of --out.

The demo shows that training and prediction work. It is no benchmark, because all slices are from one averaged brain.

examples:
  xattnres demo                                   about 7 minutes on two CPU cores
  xattnres demo --device cuda --epochs 20         a longer training on a GPU
  xattnres demo --data Task04_Hippocampus         any folder of the Medical Segmentation Decathlon
"""

import argparse
from pathlib import Path

from ..training.names import EPOCHS
from ..utils.errors import UserError
from .devices import add_device_option, find_device


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("xattnres_demo"), metavar="DIR",
        help="the folder for all files of the demo (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier demo in the folder of --out first")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a Decathlon folder Task<NN>_<Name>, instead of the brain template"
    )
    parser.add_argument(
        "-c", "--configuration", default="2d", choices=["2d", "3d_fullres"],
        help="the nnU-Net configuration (default: %(default)s); 3d_fullres needs --data, and a GPU to be fast",
    )  # fmt: skip
    parser.add_argument(
        "--epochs", type=int, default=1, choices=EPOCHS, metavar="N",
        help=f"the number of epochs of 250 iterations, one of {', '.join(map(str, EPOCHS))} (default: %(default)s)",
    )  # fmt: skip
    add_device_option(parser, "cpu", "the device for training and prediction")


def run(arguments: argparse.Namespace) -> int:
    from ..demo import decathlon, mni, pipeline

    if arguments.data is None and arguments.configuration != "2d":
        raise UserError(f"-c {arguments.configuration} needs volumes: pass --data with a Decathlon folder")
    mni.check()
    if arguments.data is not None:
        decathlon.check(arguments.data)
    find_device(arguments.device)
    out = arguments.out.resolve()
    pipeline.prepare(out, arguments.overwrite)
    pipeline.Demo(out, arguments.data, arguments.configuration, arguments.epochs, arguments.device).run()
    return 0
