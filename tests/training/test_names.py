"""Every trainer in the box: found by nnU-Net, trains, is saved, continued and predicted with by nnU-Net's own code."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_xattnres import XAttnRes, XAttnResStages
from nnunet_xattnres.training.catalogue import catalogue
from nnunet_xattnres.training.names import ROUTINGS
from nnunet_xattnres.training.recipes import RECIPES
from nnunet_xattnres.utils.paths import trainers_path

CATALOGUE = catalogue()
RUNS = [(name, f"{d}d") for name, cls in CATALOGUE.items() for d in cls.dims]


@pytest.fixture
def prepared(prepared_plans, monkeypatch):
    """Plans, our trainers in nnU-Net's look-up, and no ImageNet weights."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    return prepared_plans


def make(cls, plans, configuration):
    plans = plans | {"plans": plans["plans"] | {"continue_training": False}}
    return cls(**plans, configuration=configuration, fold=0, device=torch.device("cpu"))


def batch(trainer):
    """As nnU-Net's loader gives it: one target, or one for every scale."""
    size = trainer.configuration_manager.patch_size
    target = torch.randint(2, (2, 1, *size)).to(torch.int16)
    scales = trainer._get_deep_supervision_scales()
    if scales is not None:
        steps = [[round(1 / s) for s in scale] for scale in scales]
        target = [target[(..., *(slice(None, None, n) for n in step))] for step in steps]
    return {"data": torch.randn(2, 1, *size), "target": target}


@pytest.mark.parametrize(("name", "dim"), RUNS)
def test_from_training_to_prediction(prepared, name, dim):
    plans, configuration = prepared, {"2d": "2d", "3d": "3d_fullres"}[dim]
    cls = recursive_find_trainer_class_by_name(name)
    assert cls is CATALOGUE[name]
    assert pickle.loads(pickle.dumps(cls)) is cls

    torch.manual_seed(0)
    trainer = make(cls, plans, configuration)
    trainer.initialize()
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters()}
    trainer.network.train()
    assert all(np.isfinite(trainer.train_step(batch(trainer))["loss"]) for _ in range(2))
    assert sum(not torch.equal(p, before[n]) for n, p in trainer.network.named_parameters()) > 0.5 * len(before)
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch(trainer))["loss"])

    folder = trainer.output_folder
    trainer.save_checkpoint(f"{folder}/checkpoint_final.pth")
    continued = make(cls, plans, configuration)
    continued.load_checkpoint(f"{folder}/checkpoint_final.pth")
    assert continued.current_epoch == 1
    for n, tensor in continued.network.state_dict().items():
        assert torch.equal(tensor, trainer.network.state_dict()[n]), n

    for file, content in {"plans.json": plans["plans"], "dataset.json": plans["dataset_json"]}.items():
        with open(f"{trainer.output_folder_base}/{file}", "w") as f:
            json.dump(content, f)
    # its Gaussian, in float16, vanishes in the corners of patches this small
    predictor = nnUNetPredictor(use_gaussian=False, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    assert predictor.network.state_dict().keys() == trainer.network.state_dict().keys()
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    # nnU-Net takes (C, X, Y, Z), in 2d a stack of slices
    logits = predictor.predict_logits_from_preprocessed_data(image[0] if dim == "3d" else image)
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        expected = trainer.network(image)
    # it predicts in float16
    torch.testing.assert_close(logits.float().squeeze(), expected.squeeze(), rtol=2e-3, atol=2e-3)
    Path(f"{folder}/checkpoint_final.pth").unlink()  # EMCAD's has 300 MB


def layers(cls, plans):
    trainer = make(cls, plans, "2d")
    network = cls.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    (stages,) = (m for m in network.modules() if isinstance(m, XAttnResStages))
    return network, {int(n): layer for n, layer in stages.items()}


# the plans have three encoder stages, the paper's U-Net five, EMCAD four of each
@pytest.mark.parametrize(
    ("prefix", "encoder", "decoder"),
    [("nnUNetTrainer", {1, 2}, {3, 4}), ("nnUNetTrainerPaperUNet", {1, 2, 3, 4}, {5, 6, 7, 8}),
     ("nnUNetTrainerEMCAD", set(), {4, 5, 6, 7})],
)  # fmt: skip
@pytest.mark.parametrize(
    ("routing", "where"),
    [("", ""), ("NoSkip", ""), ("XAttnRes", "ed"), ("XAttnResReplace", "ed"), ("XAttnResEncoder", "e"),
     ("XAttnResEncoderNoSkip", "e"), ("XAttnResDecoder", "d"), ("XAttnResDecoderNoSkip", "d"),
     ("XAttnResUpsampled", "ed")],
)  # fmt: skip
def test_a_routing_has_its_layers(prepared_plans, prefix, encoder, decoder, routing, where):
    name = prefix + routing
    if name not in CATALOGUE:
        absent = where in ("e", "d") or routing == "XAttnResUpsampled"
        assert name == "nnUNetTrainer" or (prefix == "nnUNetTrainerEMCAD" and absent)
        return
    network, found = layers(CATALOGUE[name], prepared_plans)
    assert set(found) == (encoder if "e" in where else set()) | (decoder if "d" in where else set())
    # what a decoder needs of a skip: input channels, or EMCAD's gates
    with_skips = "NoSkip" not in routing and "Replace" not in routing
    if prefix == "nnUNetTrainerEMCAD":
        assert (network.decoder.gates is not None) == with_skips
    else:
        stages = network.decoder.stages if prefix == "nnUNetTrainer" else network.decoder["stages"]
        first = next(m for m in stages.modules() if isinstance(m, torch.nn.Conv2d))
        assert first.in_channels == {"nnUNetTrainer": 8, "nnUNetTrainerPaperUNet": 144}[prefix] * (1 + with_skips)


@pytest.mark.parametrize(
    ("part", "init"), [("Normal", "normal"), ("Kaiming", "kaiming_uniform"), ("Xavier", "xavier_uniform")]
)
@pytest.mark.parametrize("suffix", ["", "NoSkip"])
def test_initialisations(prepared_plans, part, init, suffix):
    network, found = layers(CATALOGUE[f"nnUNetTrainerXAttnRes{part}{suffix}"], prepared_plans)
    assert network.connections.skip == (suffix == "")
    for layer in found.values():
        assert isinstance(layer, XAttnRes)
        assert layer.init == init
        assert layer.pseudo_query.any()


def test_every_name_says_network_routing_recipe_and_length():
    everything = catalogue(lengths=True)
    routings = "|".join(sorted(filter(None, ROUTINGS), key=len, reverse=True))
    form = rf"nnUNetTrainer(PaperUNet|EMCAD)?({routings})?(_({'|'.join(RECIPES)}))?(_\d+epochs?)?"
    for name, cls in everything.items():
        assert re.fullmatch(form, name), name
        assert cls.__name__ == name
        assert "__" not in name  # separates trainer, plans and configuration in nnU-Net's folders
    assert len(everything) == 13 * len(CATALOGUE)
    assert "nnUNetTrainer" not in everything
    assert "nnUNetTrainer_5epochs" not in everything
    assert "nnUNetTrainer_PaperMulticlass_1epoch" in everything
    assert "nnUNetTrainerEMCADXAttnRes_PaperBinary_50epochs" in everything


def test_lengths_of_the_recipes(prepared_plans):
    lengths = {"": 1000, "_PaperMulticlass": 300, "_PaperBinary": 200, "_PaperBinary_5epochs": 5}
    for suffix, epochs in lengths.items():
        cls = catalogue(lengths=True)[f"nnUNetTrainerXAttnRes{suffix}"]
        assert make(cls, prepared_plans, "2d").num_epochs == epochs
