"""What network.json says, against the managers with which nnU-Net itself reads plans.json and dataset.json."""

import hashlib
import json

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from support.trained_model import DATASET, save_model

from nnunet_xattnres.export.description import describe, describe_file
from nnunet_xattnres.export.graphs import ImageSizes
from nnunet_xattnres.export.parity import Parity
from nnunet_xattnres.utils.paths import trainers_path
from nnunet_xattnres.utils.trained_models import load_model

REGIONS = DATASET | {
    "labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2],
    "channel_names": {"0": "CT", "1": "MRI"},
}  # fmt: skip
SIZES = ImageSizes([4, 4], [8, 8])


@pytest.fixture
def described(tmp_path, monkeypatch):
    """Describes a model; returns the predictor and the description, as it is read from its file."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))

    def described(**options):
        model = save_model(tmp_path / "model", folds=(1,), **options)
        predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
        load_model(predictor, model, ["1"], "checkpoint_final.pth")
        name = options.get("configuration", "2d")
        channels = next(iter(predictor.network.parameters())).shape[1]
        return predictor, json.loads(
            json.dumps(describe(predictor, name, ["1"], "checkpoint_final.pth", SIZES, channels))
        )

    return described


def test_labels(described):
    predictor, content = described(use_mask_for_norm=[True])
    assert content["segmentation"]["activation"] == "softmax" and content["segmentation"]["regions_class_order"] is None
    assert content["output"]["channels"] == predictor.label_manager.num_segmentation_heads == 2
    (normalisation,) = content["preprocessing"]["normalisation"]
    assert normalisation["scheme"] == predictor.configuration_manager.normalization_schemes[0]
    assert normalisation["use_mask"] is True and normalisation["channel"] == "MRI"
    assert content["sliding_window"]["patch_size"] == predictor.configuration_manager.patch_size
    assert content["sliding_window"]["mirror_axes"] == list(predictor.allowed_mirroring_axes)
    assert content["input"]["axes"] == ["batch", "channel", "y", "x"] and content["previous_stage"] is None
    resampling = predictor.configuration_manager.resampling_fn_data
    expected = {"function": resampling.func.__name__, **resampling.keywords, "separate_z_anisotropy_threshold": 3}
    assert content["preprocessing"]["resampling"] == expected


def test_regions(described):
    predictor, content = described(dataset=REGIONS, configuration="3d_fullres")
    assert content["segmentation"]["activation"] == "sigmoid" and content["segmentation"]["threshold"] == 0.5
    assert content["segmentation"]["regions_class_order"] == predictor.label_manager.regions_class_order
    assert content["input"]["channels"] == 2 and len(content["preprocessing"]["normalisation"]) == 2
    assert content["preprocessing"]["spacing"] == predictor.configuration_manager.spacing


def test_a_cascade(described):
    _, content = described(configuration="3d_cascade_fullres")
    previous = content["previous_stage"]
    assert previous["configuration"] == "3d_lowres" and previous["labels"] == [1] and previous["resampling"]["is_seg"]
    assert content["input"]["channels"] == 2 and len(content["preprocessing"]["normalisation"]) == 1


def test_a_file(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"graph")
    content = describe_file(tmp_path / "network.onnx", Parity([[1, 1, 4, 4]], 4.0, 1.0, 0.0), None)
    assert content["bytes"] == 5 and content["sha256"] == hashlib.sha256(b"graph").hexdigest()
    assert (
        content["fixed_size"] is None
        and content["weights"] is None
        and content["parity"]["relative_difference"] == 0.25
    )
