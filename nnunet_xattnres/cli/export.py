"""xattnres export: write a trained network for other runtimes, or the model's folder for other people.

Graphs are written for ONNX Runtime (network.onnx), for TorchScript (network.torchscript.pt) and for torch.export
(network.pt2). Several folds become one graph, which averages their logits as nnU-Net does. Deep supervision is off.
Each graph is compared with PyTorch on patches of real images, and nothing is written if the largest difference exceeds
the bound. Beside the graphs are network.json, which says how to preprocess images, move the window and read the logits,
and predict_onnx.py, which predicts whole images with numpy and ONNX Runtime alone.

With --model-folder the command writes a folder for sharing instead: the weights without the state of the training,
plans, dataset.json, checksums and a model card. nnUNetv2_predict_from_modelfolder takes it as it is.

examples:
  xattnres export -m $nnUNet_results/Dataset004_Hippocampus/nnUNetTrainerXAttnRes__nnUNetPlans__2d -o exported
  xattnres export -m MODEL -o exported -f 0 --formats onnx torchscript -i imagesTs    compared on images of a folder
  python exported/predict_onnx.py exported/network.json IMAGE_0000.nii.gz -o SEGMENTATION.nii.gz
  xattnres export -m MODEL -o shared --model-folder
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import StepFailedError, UserError, last_line
from ..utils.tables import format_table
from .arguments import add_model_options, add_previous_stage_option, load_named_model, positive_float

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from torch import Tensor

FORMATS = ("onnx", "torchscript", "program")
_EXAMPLE = Path(__file__).parents[1] / "export" / "predict_onnx.py"
_BOUND = 1e-3
_PATCHES = 4
"""The number of patches of the comparison with PyTorch."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder for the files")
    parser.add_argument(
        "--model-folder", action="store_true", help="write a folder for nnUNetv2_predict_from_modelfolder instead"
    )
    graphs = parser.add_argument_group("graphs")
    graphs.add_argument(
        "--formats", nargs="+", choices=FORMATS, metavar="FORMAT",
        help=f"of {', '.join(FORMATS)} (default: onnx)",
    )  # fmt: skip
    graphs.add_argument(
        "-i", "--images", type=Path, metavar="DIR",
        help="images for the comparison, named as for nnU-Net (default: imagesTr of the data set in nnUNet_raw)",
    )  # fmt: skip
    add_previous_stage_option(graphs)
    graphs.add_argument(
        "--bound", type=positive_float, metavar="X",
        help=f"the largest difference of logits relative to the largest logit (default: {_BOUND:g})",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    if arguments.model_folder:
        graph_options = ("formats", "images", "previous_stage", "bound")
        if given := [name for name in graph_options if getattr(arguments, name) is not None]:
            raise UserError(f"--{given[0].replace('_', '-')} is an option for graphs: leave it out with --model-folder")
        from ..export.model_folder import write_model_folder
        from ..utils.trained_models import find_folds

        folds = find_folds(arguments.model, arguments.folds, arguments.checkpoint)
        print(write_model_folder(arguments.model, arguments.out, folds, arguments.checkpoint))
    else:
        _export_graphs(arguments)
    return 0


def _export_graphs(arguments: argparse.Namespace) -> None:
    formats, bound = list(dict.fromkeys(arguments.formats or ["onnx"])), arguments.bound or _BOUND
    _check_packages(formats)
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from tqdm import tqdm

    from ..export import description, graphs
    from ..export.parity import compare, cut_patches
    from ..utils.checkpoints import read_checkpoint
    from ..utils.files import check_new_folder, new_folder
    from ..utils.quiet import silence_libraries
    from ..utils.trained_models import check_folders

    check_folders({"-i": arguments.images, "--previous-stage": arguments.previous_stage})
    check_new_folder(arguments.out)
    with silence_libraries():
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    folds = load_named_model(predictor, arguments)
    sizes = graphs.image_sizes(predictor)
    data = _preprocess_images(arguments, predictor)
    network = graphs.ensemble_network(predictor)
    patch_size, channels = predictor.configuration_manager.patch_size, len(data[0])
    patches = torch.cat([cut_patches(case, patch_size, _PATCHES // len(data)) for case in data])
    smallest = cut_patches(data[0], sizes.minimum, 2)
    # the predictor has the weights already, but does not keep the name of the configuration
    checkpoint = read_checkpoint(arguments.model / f"fold_{folds[0]}" / arguments.checkpoint, weights_on_disk=True)
    network_json = description.describe(
        predictor, checkpoint["init_args"]["configuration"], folds, arguments.checkpoint, sizes, channels
    ) | {"files": {}}
    rows = [["file", "MB", "seconds", "largest difference", "relative", "other labels"]]
    with new_folder(arguments.out) as out:
        for format_name in tqdm(formats, unit="graph", leave=False, disable=None):
            start = time.perf_counter()
            writer = graphs.FORMATS[format_name]
            path = out / writer.file
            fixed = graphs.has_fixed_size(network, format_name)
            example = torch.zeros_like(patches[:1] if fixed else smallest)
            batches = [*patches.split(1), *([] if fixed else [smallest])]
            try:
                writer.save(network, example, None if fixed else sizes, path)
                parity = compare(network, writer.load(path), batches, predictor.label_manager.has_regions)
            except OSError:
                raise
            except Exception as error:  # exporters and other runtimes raise anything
                raise StepFailedError(
                    f"{writer.file} cannot be made of the network {type(network).__name__} ({last_line(error)}): "
                    "choose another of --formats"
                ) from error
            if not parity.relative_difference <= bound:
                raise StepFailedError(
                    f"{writer.file} differs from PyTorch by {parity.relative_difference:.2g} of the largest logit, "
                    f"more than --bound {bound:g}: nothing is written"
                )
            only_size = example.shape if fixed else None
            network_json["files"][writer.file] = description.describe_file(path, parity, only_size)
            rows.append([
                writer.file, f"{path.stat().st_size / 1e6:.1f}", f"{time.perf_counter() - start:.0f}",
                f"{parity.largest_difference:.2g}", f"{parity.relative_difference:.2g}",
                f"{100 * parity.other_labels:.4f} %",
            ])  # fmt: skip
        (out / "network.json").write_text(json.dumps(network_json, indent=1) + "\n", encoding="utf-8")
        if "onnx" in formats:
            shutil.copyfile(_EXAMPLE, out / "predict_onnx.py")
    print(format_table(rows))
    print(f"compared with PyTorch on {len(patches)} patches of {len(data)} cases")
    print(f"written: {arguments.out}")


def _check_packages(formats: list[str]) -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime") if "onnx" in formats and find_spec(name) is None]
    if missing:
        raise UserError(
            f"--formats onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}, or choose other formats"
        )


def _preprocess_images(arguments: argparse.Namespace, predictor: "nnUNetPredictor") -> "list[Tensor]":
    """Preprocess one or two cases for the comparison with PyTorch."""
    from ..utils.plotting import choose_evenly
    from ..utils.trained_models import find_case_file, find_cases, preprocess_case, read_case

    images, ending = arguments.images, predictor.dataset_json["file_ending"]
    if images is None:
        images = Path(os.environ.get("nnUNet_raw", "nnUNet_raw"), predictor.plans_manager.dataset_name, "imagesTr")
        if not images.is_dir():
            raise UserError(
                f"{images} does not exist: name a folder of images with -i, for the comparison with PyTorch on patches "
                "of real images"
            )
    cases = find_cases(images, ending)
    data = []
    for case in choose_evenly(list(cases), 2):
        previous = find_case_file("--previous-stage", arguments.previous_stage, case, ending)
        image, properties = read_case(predictor, cases[case])
        data.append(preprocess_case(predictor, image, properties, previous))
    return data
