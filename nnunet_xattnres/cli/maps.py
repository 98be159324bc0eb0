"""xattnres maps: show which stage every pixel reads, in every XAttnRes layer of a trained network, over whole images.

The maps are predicted as nnU-Net predicts the segmentation: the same preprocessing, sliding window, Gaussian weights,
mirroring and folds, one layer after the other, and resampled to the image. For every case the command writes a folder
with the weight of each source (LAYER_from_SOURCE), the number of the source with the largest weight (LAYER_strongest,
sources in the order of maps.json), the entropy of the weights (LAYER_entropy, from 0 to 1), and page.html, which shows
all of them in a browser. Stages are e1, e2, ... of the encoder and d1, d2, ... of the decoder; x is the layer's input.
mean_weights.csv has the mean weights by layer, source and label.

examples:
  xattnres maps -i imagesTs -o maps -m $nnUNet_results/Dataset004_Hippocampus/nnUNetTrainerXAttnRes__nnUNetPlans__2d
  xattnres maps -i imagesTs -o maps -m MODEL -f 0 --layers d3 d4 --save entropy    only the page, entropy and figures
  xattnres maps -i imagesTr -o maps -m MODEL --labels labelsTr                     means by the reference's labels
"""

import argparse
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError
from ..utils.files import write_atomic
from ..utils.quiet import silence_libraries
from .arguments import add_model_options, add_previous_stage_option, load_named_model
from .devices import add_device_option, find_device

if TYPE_CHECKING:
    from ..maps.predictor import AttentionPredictor
    from ..maps.summary import MeanWeight

_KINDS = ("weights", "strongest", "entropy")
_COLUMNS = ("case", "layer", "source", "label", "pixels", "weight")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--images", type=Path, required=True, metavar="DIR", help="images, named as for nnU-Net")
    add_model_options(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the folder for the maps")
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help="only these layers, such as e2 d1 (default: all)")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases (default: all)")
    parser.add_argument(
        "--labels", type=Path, metavar="DIR", help="label maps for the means (default: the network's own segmentation)"
    )
    parser.add_argument(
        "--save", nargs="*", choices=_KINDS, default=list(_KINDS), metavar="KIND",
        help=f"the maps to write, of {', '.join(_KINDS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--step-size", type=float, default=0.5, metavar="S", help="as nnU-Net's (default: %(default)s)")
    parser.add_argument("--disable-tta", action="store_true", help="do not mirror: faster, less accurate")
    add_previous_stage_option(parser)
    add_device_option(parser, "cuda", "the device for prediction")


def run(arguments: argparse.Namespace) -> int:
    _check_arguments(arguments)
    predictor = _load(arguments)
    layers = _choose_layers(predictor, arguments.layers)
    cases = _find_cases(arguments, predictor)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case, files in cases.items():
        means = list(_map_case(case, files, layers, predictor, arguments))
        _write_csv(arguments.out / case / "mean_weights.csv", [{"case": case} | asdict(mean) for mean in means])
        print(f"written: {arguments.out / case / 'page.html'}", flush=True)
    # of all cases in the folder, also those of earlier runs
    rows: list[dict[str, Any]] = []
    for path in sorted(arguments.out.glob("*/mean_weights.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    _write_csv(arguments.out / "mean_weights.csv", rows)
    print(f"written: {arguments.out / 'mean_weights.csv'}")
    return 0


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())


def _check_arguments(arguments: argparse.Namespace) -> None:
    from ..utils.trained_models import check_folders

    check_folders({"-i": arguments.images, "--labels": arguments.labels, "--previous-stage": arguments.previous_stage})
    if not 0 < arguments.step_size <= 1:
        raise UserError(f"--step-size must be above 0 and at most 1, got {arguments.step_size:g}")


def _load(arguments: argparse.Namespace) -> "AttentionPredictor":
    """The predictor of the model."""
    from ..maps.predictor import AttentionPredictor

    device = find_device(arguments.device)
    with silence_libraries():
        predictor = AttentionPredictor(
            arguments.step_size, use_mirroring=not arguments.disable_tta, device=device, allow_tqdm=False
        )
    load_named_model(predictor, arguments)
    return predictor


def _choose_layers(predictor: "AttentionPredictor", chosen: list[str] | None) -> list[str]:
    try:
        layers = predictor.layers()
    except ValueError as error:
        raise UserError(str(error)) from None
    unknown = [layer for layer in chosen or [] if layer not in layers]
    if unknown:
        raise UserError(f"--layers {unknown[0]}: the network has the layers {', '.join(layers)}")
    return [layer for layer in layers if not chosen or layer in chosen]


def _find_cases(arguments: argparse.Namespace, predictor: "AttentionPredictor") -> dict[str, list[str]]:
    """The files of every case, by its name."""
    from ..utils.trained_models import find_case_file, find_cases

    ending = predictor.dataset_json["file_ending"]
    cases = find_cases(arguments.images, ending)
    unknown = [case for case in arguments.cases or [] if case not in cases]
    if unknown:
        raise UserError(f"--cases {unknown[0]}: {arguments.images} has no image of this case")
    cases = {case: files for case, files in cases.items() if not arguments.cases or case in arguments.cases}
    for case in cases:
        find_case_file("--labels", arguments.labels, case, ending)
        find_case_file("--previous-stage", arguments.previous_stage, case, ending)
    return cases


def _map_case(
    case: str, files: list[str], layers: list[str], predictor: "AttentionPredictor", arguments: argparse.Namespace
) -> Iterator["MeanWeight"]:
    """Write the maps of a case, one layer after the other; yields the mean weights."""
    import numpy as np
    from tqdm import tqdm

    from ..maps.files import map_ending, write_map
    from ..maps.page import MapsPage
    from ..maps.summary import entropy, mean_weights, strongest_source
    from ..utils.trained_models import find_case_file, preprocess_case, read_case

    folder, ending = arguments.out / case, predictor.dataset_json["file_ending"]
    folder.mkdir(exist_ok=True)
    previous = find_case_file("--previous-stage", arguments.previous_stage, case, ending)
    channels, properties = read_case(predictor, files)
    image = channels[0]
    data = preprocess_case(predictor, channels, properties, previous)
    label_file = find_case_file("--labels", arguments.labels, case, ending)
    if label_file is not None:
        reader = predictor.plans_manager.image_reader_writer_class()
        label_map = reader.read_seg(str(label_file))[0][0].astype(np.int64)
    else:
        label_map = predictor.segment(data, properties)
    if label_map.shape != image.shape:
        raise UserError(f"the label map of {case} has the shape {label_map.shape}, its image {image.shape}")
    page = MapsPage(case, image, label_map, _label_names(predictor.dataset_json["labels"]))
    sources_by_layer = {}

    def map_layer(layer: str) -> list["MeanWeight"]:
        """Write the maps of a layer; when it returns, they no longer take memory."""
        sources = sources_by_layer[layer] = predictor.sources(layer)
        weights = predictor.to_image(predictor.predict_attention(data, layer), properties)
        uncertainty = entropy(weights)
        means = list(mean_weights(weights, label_map, layer, sources))
        page.add_layer(layer, sources, weights, uncertainty, means)
        maps: dict[str, np.ndarray] = {}
        if "weights" in arguments.save:
            maps |= {f"{layer}_from_{source}": weight for source, weight in zip(sources, weights, strict=True)}
        if "strongest" in arguments.save:
            maps[f"{layer}_strongest"] = strongest_source(weights)
        if "entropy" in arguments.save:
            maps[f"{layer}_entropy"] = uncertainty
        for name, values in maps.items():
            write_map(values, folder / f"{name}{map_ending(ending)}", properties)
        return means

    for layer in tqdm(layers, desc=case, unit="layer", leave=False, disable=None):
        yield from map_layer(layer)
    write_atomic(folder / "maps.json", json.dumps({"case": case, "sources": sources_by_layer}, indent=1) + "\n")
    write_atomic(folder / "page.html", page.html())


def _label_names(labels: dict[str, Any]) -> dict[int, str]:
    """The names of the labels by their value; regions share values, so a region of one value gives its name."""
    names = {}
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if len(values) == 1:
            names[int(values[0])] = name
    return names
