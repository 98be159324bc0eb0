"""network.json: what a program needs to know of a network besides its graph, to predict as nnU-Net does."""

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from .. import __version__
from ..utils.files import sha256
from ..utils.trained_models import channel_names
from .graphs import INPUT, OUTPUT, ImageSizes, axis_names
from .parity import Parity

FORMAT_VERSION = 1


def describe(
    predictor: nnUNetPredictor,
    configuration_name: str,
    folds: Sequence[str],
    checkpoint: str,
    sizes: ImageSizes,
    channels: int,
) -> dict[str, Any]:
    """What network.json says of the network of an initialised predictor.

    Args:
        predictor: the predictor of the model.
        configuration_name: the name of its configuration.
        folds: the folds whose logits the graph averages.
        checkpoint: the name of the checkpoint files.
        sizes: the sizes of the images that the network takes.
        channels: the channels of the network's input.
    """
    plans, configuration, labels = predictor.plans_manager, predictor.configuration_manager, predictor.label_manager
    axes = axis_names(len(configuration.patch_size))
    previous = configuration.previous_stage_name
    return {
        "format_version": FORMAT_VERSION,
        "dataset": plans.dataset_name,
        "trainer": predictor.trainer_name,
        "plans": plans.plans_name,
        "configuration": configuration_name,
        "folds": list(folds),
        "checkpoint": checkpoint,
        "input": {
            "name": INPUT, "axes": axes, "dtype": "float32", "channels": channels, "multiples": sizes.multiples,
            "minimum": sizes.minimum,
        },
        "output": {"name": OUTPUT, "axes": axes, "channels": labels.num_segmentation_heads},
        "preprocessing": {
            "preprocessor": configuration.preprocessor_name,
            "image_reader": plans.image_reader_writer_class.__name__,
            "file_ending": predictor.dataset_json["file_ending"],
            "transpose_forward": list(plans.transpose_forward),
            "transpose_backward": list(plans.transpose_backward),
            "normalisation": _normalisation(predictor),
            "spacing": list(configuration.spacing),
            "resampling": _resampling(configuration, "data"),
        },
        "sliding_window": {
            "patch_size": list(configuration.patch_size), "tile_step_size": 0.5, "gaussian_sigma": 0.125,
            "mirror_axes": list(predictor.allowed_mirroring_axes or []),
        },
        "segmentation": {
            "label_manager": type(labels).__name__,
            "resampling": _resampling(configuration, "probabilities"),
            "activation": "sigmoid" if labels.has_regions else "softmax",
            "labels": predictor.dataset_json["labels"],
            "regions_class_order": list(labels.regions_class_order) if labels.has_regions else None,
            "threshold": 0.5 if labels.has_regions else None,
        },
        "previous_stage": previous and {
            "configuration": previous, "labels": list(map(int, labels.foreground_labels)),
            "resampling": _resampling(configuration, "seg"),
        },
        "versions": {"nnunet_xattnres": __version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__},
    }  # fmt: skip


def describe_file(path: Path, parity: Parity, fixed_size: Sequence[int] | None) -> dict[str, Any]:
    """What network.json says of a graph's file: its checksum, the only size of its input, and how exact it is."""
    weights = path.with_name(f"{path.name}.data")  # of ONNX above 2 GB
    return {
        "bytes": path.stat().st_size, "sha256": sha256(path), "fixed_size": fixed_size and list(fixed_size),
        "weights": {"file": weights.name, "sha256": sha256(weights)} if weights.is_file() else None,
        "parity": asdict(parity) | {"relative_difference": parity.relative_difference},
    }  # fmt: skip


def _normalisation(predictor: nnUNetPredictor) -> list[dict[str, Any]]:
    """The normalisation of every channel, with the statistics of the training images."""
    configuration = predictor.configuration_manager
    statistics = predictor.plans_manager.foreground_intensity_properties_per_channel
    names = channel_names(predictor.dataset_json)
    channels = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    return [
        {"channel": names[str(n)], "scheme": scheme, "use_mask": bool(use_mask)}
        | {key: statistics[str(n)][key] for key in ("mean", "std", "percentile_00_5", "percentile_99_5")}
        for n, (scheme, use_mask) in enumerate(channels)
    ]


def _resampling(configuration: ConfigurationManager, kind: str) -> dict[str, Any]:
    """The name and the arguments of a resampling function of the plans, also those that plans leave at the default."""
    function = getattr(configuration, f"resampling_fn_{kind}")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function.func).parameters.items()
        if parameter.default is not parameter.empty
    }
    return {"function": function.func.__name__, **defaults, **function.keywords}
