"""The trainer classes: their creation by name, nnU-Net's look-up, training, continuing and prediction."""

import inspect
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from support import csap as csap_support
from support.emcad import small_encoder

from nnunet_xattnres import XAttnRes, XAttnResStages
from nnunet_xattnres.training import csap, csap_planned, emcad, lengths, names, paper_unet, planned, usema, with_lengths
from nnunet_xattnres.training.names import parse, trainer_names
from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes
from nnunet_xattnres.training.trainer_classes import trainer_class
from nnunet_xattnres.utils.paths import trainers_path

CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """nnU-Net finds our trainers, and EMCAD and CSAP have small encoders and need no ImageNet weights."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "random")
    with small_encoder(), csap_support.small_encoder():
        yield


def make(cls, plans, configuration="2d"):
    plans = plans | {"plans": plans["plans"] | {"continue_training": False}}
    return cls(**plans, configuration=configuration, fold=0, device=torch.device("cpu"))


# --- look-up ---


@pytest.mark.parametrize("module", [planned, paper_unet, emcad, csap, csap_planned, usema])
def test_every_import_gives_the_same_class(module):
    networks = [key for key, entry in names.NETWORKS.items() if module.__name__.endswith(f".{entry.module}")]
    for name in trainer_names(lengths=True):
        assert hasattr(module, name) == (parse(name).network in networks)
        if hasattr(module, name):
            cls = getattr(module, name)
            assert cls is trainer_class(name)
            assert cls.__name__ == cls.__qualname__ == name
            assert cls.__module__ == module.__name__
            assert pickle.loads(pickle.dumps(cls)) is cls
            assert inspect.getmodule(cls) is module
            assert inspect.getsourcefile(cls) == module.__file__


LENGTHS = ["nnUNetTrainerXAttnRes_1epoch", "nnUNetTrainerEMCAD_500epochs", "nnUNetTrainer_PaperBinary_20epochs"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in LENGTHS or parse(name).recipe == "" else [pytest.mark.slow])
        for name in [*trainer_names(), *LENGTHS]
    ],
)
def test_nnunet_finds_it(name):
    assert recursive_find_trainer_class_by_name(name) is trainer_class(name)


def test_imports_make_no_class_and_other_names_are_absent():
    """nnU-Net looks up any name in the file, also those of its own trainers."""
    program = """
import sys
from importlib import import_module
from nnunet_xattnres.training import emcad, planned, trainer_classes
from nnunet_xattnres.training.names import NETWORKS
from nnunet_xattnres.training.trainer import XAttnResTrainer
import nnUNetTrainerXAttnRes as file
def classes(cls):
    return {cls.__name__}.union(*map(classes, cls.__subclasses__()))
networks = [import_module(f"nnunet_xattnres.training.{network.module}") for network in NETWORKS.values()]
before, modules = classes(XAttnResTrainer), set(sys.modules)
written = {network.trainer for network in NETWORKS.values()}
assert before == {"XAttnResTrainer", "PlannedNetworkTrainer", "PretrainedEncoderTrainer", *written}, before
for name in ("nnUNetTrainer", "nnUNetTrainer_5epochs", "nnUNetTrainerNoMirroring", "nnUNetTrainerXAttnRess", "__x__"):
    for module in (file, *networks):
        assert not hasattr(module, name), (module, name)
assert classes(XAttnResTrainer) == before and set(sys.modules) == modules
assert "nnUNetTrainerXAttnResReplace" in dir(file) and "nnUNetTrainerEMCAD" in dir(emcad)
assert "timm" not in sys.modules
assert file.nnUNetTrainerXAttnResReplace is planned.nnUNetTrainerXAttnResReplace
assert classes(XAttnResTrainer) == before | {"nnUNetTrainerXAttnResReplace"}
"""
    environment = os.environ | {"PYTHONPATH": str(trainers_path())}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_the_trainer_file_is_thin():
    for file in trainers_path().glob("*.py"):
        assert len(file.read_text().splitlines()) <= 15


def test_sources_can_be_inspected():
    """nnU-Net does so for the classes that are written out."""
    for entry in names.NETWORKS.values():
        assert f"class {entry.trainer}(" in inspect.getsource(trainer_class(entry.trainer))


def test_attributes_are_those_of_the_name():
    for name in trainer_names():
        cls, parts = trainer_class(name), parse(name)
        assert cls.dims == parts.dims
        assert cls.network_options == parts.network_options
        assert cls.network_name == names.NETWORKS[parts.network].label
        assert cls.routing == names.ROUTINGS[parts.routing].label
        assert cls.recipe == names.RECIPES[parts.recipe].label


# --- lengths ---


@pytest.mark.parametrize(
    ("suffix", "epochs"),
    [("", 1000), ("_1epoch", 1), ("_250epochs", 250), ("_PaperMulticlass", 300), ("_PaperBinary", 200),
     ("_PaperBinary_5epochs", 5)],
)  # fmt: skip
def test_number_of_epochs(prepared_plans, suffix, epochs):
    cls = trainer_class(f"nnUNetTrainerXAttnRes{suffix}")
    trainer = make(cls, prepared_plans)
    assert trainer.num_epochs == epochs
    assert trainer.output_folder.split("/")[-2].startswith(f"{cls.__name__}__")


def test_lengths_of_a_trainer_of_your_own():
    class nnUNetTrainerMine(nnUNetTrainerXAttnRes):
        network_options = {"skip": False}  # noqa: RUF012

    classes = with_lengths(nnUNetTrainerMine)
    assert lengths.with_lengths is with_lengths  # the import of version 0.1
    assert classes.pop("nnUNetTrainerMine") is nnUNetTrainerMine
    assert {cls.epochs for cls in classes.values()} == set(names.EPOCHS)
    for name, cls in classes.items():
        assert cls.__name__ == name == f"nnUNetTrainerMine_{names.length_name(cls.epochs)}"
        assert cls.__module__ == __name__
        assert issubclass(cls, nnUNetTrainerMine)
        assert with_lengths(nnUNetTrainerMine)[name] is cls


# --- the networks of the routings ---


def layers(name, plans):
    cls = trainer_class(name)
    trainer = make(cls, plans)
    network = cls.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    (stages,) = (m for m in network.modules() if isinstance(m, XAttnResStages))
    return network, {int(n): layer for n, layer in stages.items()}


# the plans have three encoder stages, the paper's U-Net five, EMCAD and CSAP four, of which CSAP decodes three
@pytest.mark.parametrize(
    ("prefix", "encoder", "decoder"),
    [("nnUNetTrainer", {1, 2}, {3, 4}), ("nnUNetTrainerPaperUNet", {1, 2, 3, 4}, {5, 6, 7, 8}),
     ("nnUNetTrainerEMCAD", set(), {4, 5, 6, 7}), ("nnUNetTrainerCSAP", set(), {4, 5, 6}),
     ("nnUNetTrainerCSAPPlanned", {1, 2}, {3, 4}), ("nnUNetTrainerUSEMA", {1, 2}, {3, 4})],
)  # fmt: skip
@pytest.mark.parametrize(
    ("routing", "where"),
    [("", ""), ("NoSkip", ""), ("XAttnRes", "ed"), ("XAttnResReplace", "ed"), ("XAttnResEncoder", "e"),
     ("XAttnResEncoderNoSkip", "e"), ("XAttnResDecoder", "d"), ("XAttnResDecoderNoSkip", "d"),
     ("XAttnResUpsampled", "ed"), ("XAttnResGated", "ed")],
)  # fmt: skip
def test_layers_of_a_routing(prepared_plans, prefix, encoder, decoder, routing, where):
    name = prefix + routing
    with_skips = "NoSkip" not in routing and "Replace" not in routing
    if name not in trainer_names():
        absent = where in ("e", "d") or routing == "XAttnResUpsampled"
        absent |= prefix == "nnUNetTrainerCSAP" and not with_skips
        assert name == "nnUNetTrainer" or (prefix in ("nnUNetTrainerEMCAD", "nnUNetTrainerCSAP") and absent)
        return
    network, actual = layers(name, prepared_plans)
    assert set(actual) == (encoder if "e" in where else set()) | (decoder if "d" in where else set())
    assert {layer.gate is not None for layer in actual.values()} <= {routing == "XAttnResGated"}
    # a decoder with skip connections has input channels for them, or EMCAD's gates; that of CSAP has none
    if prefix == "nnUNetTrainerEMCAD":
        assert (network.decoder.gates is not None) == with_skips
    elif prefix != "nnUNetTrainerCSAP":
        stages = network.decoder["stages"] if prefix == "nnUNetTrainerPaperUNet" else network.decoder.stages
        first = next(m for m in stages.modules() if isinstance(m, torch.nn.Conv2d))
        assert first.in_channels == (144 if prefix == "nnUNetTrainerPaperUNet" else 8) * (1 + with_skips)


@pytest.mark.parametrize(
    ("part", "init"), [("Normal", "normal"), ("Kaiming", "kaiming_uniform"), ("Xavier", "xavier_uniform")]
)
@pytest.mark.parametrize("suffix", ["", "NoSkip"])
def test_initialisations(prepared_plans, part, init, suffix):
    network, actual = layers(f"nnUNetTrainerXAttnRes{part}{suffix}", prepared_plans)
    assert network.connections.skip == (suffix == "")
    for layer in actual.values():
        assert isinstance(layer, XAttnRes)
        assert layer.init == init
        assert layer.pseudo_query.any()


@pytest.mark.parametrize("dim", CONFIGURATIONS)
def test_every_trainer_builds_a_network(prepared_plans, dim):
    """The network has the same parameters for training and for inference."""
    trainer = make(nnUNetTrainerXAttnRes, prepared_plans, CONFIGURATIONS[dim])
    for name in trainer_names():
        if dim in parse(name).dims:
            build = trainer_class(name).build_network_architecture
            other = trainer_class(str(replace(parse(name), recipe="PaperMulticlass")))
            if other is not trainer_class(name):  # it builds the same network
                assert build.__func__ is other.build_network_architecture.__func__
                assert trainer_class(name).build_network.__func__ is other.build_network.__func__
                assert trainer_class(name).network_options == other.network_options
                continue
            with torch.device("meta"):
                training, inference = (
                    build(trainer.plans_manager, trainer.configuration_manager, 1, 2, deep_supervision).state_dict()
                    for deep_supervision in (True, False)
                )
            assert {n: t.shape for n, t in training.items()} == {n: t.shape for n, t in inference.items()}


# --- training, continuing, predicting ---


def runs():
    """All trainers and dimensions; the default run has one of each network, recipe and dimension, and one gated."""
    others = {"nnUNetTrainerXAttnResGated-2", "nnUNetTrainerCSAP-2", "nnUNetTrainerCSAPXAttnRes_PaperBinary-2"}
    others |= {"nnUNetTrainerCSAPPlanned-2", "nnUNetTrainerCSAPPlannedXAttnRes-3"}
    others |= {"nnUNetTrainerUSEMA-3", "nnUNetTrainerUSEMABotXAttnRes-2"}
    for name in trainer_names():
        parts = parse(name)
        for dim in parts.dims:
            slow = f"{name}-{dim}" not in others
            if parts.network in ("", "PaperUNet", "EMCAD"):
                slow &= parts.routing != "XAttnRes"
            yield pytest.param(name, dim, id=f"{name}-{dim}d", marks=[pytest.mark.slow] if slow else [])


def batch(trainer):
    """A batch in the form of nnU-Net's loader: one target, or one for every scale."""
    size = trainer.configuration_manager.patch_size
    target = torch.randint(2, (2, 1, *size)).to(torch.int16)
    scales = trainer._get_deep_supervision_scales()
    if scales is not None:
        steps = [[round(1 / s) for s in scale] for scale in scales]
        target = [target[(..., *(slice(None, None, n) for n in step))] for step in steps]
    return {"data": torch.randn(2, 1, *size), "target": target}


def make_predictor(model_folder):
    # nnU-Net's Gaussian weights are float16 and vanish in the corners of patches this small
    predictor = nnUNetPredictor(use_gaussian=False, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model_folder), (0,))
    return predictor


@pytest.mark.parametrize(("name", "dim"), list(runs()))
def test_from_training_to_prediction(prepared_plans, name, dim):
    cls = recursive_find_trainer_class_by_name(name)
    torch.manual_seed(0)
    trainer = make(cls, prepared_plans, CONFIGURATIONS[dim])
    trainer.initialize()
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters() if p.requires_grad}
    trainer.network.train()
    assert all(np.isfinite(trainer.train_step(batch(trainer))["loss"]) for _ in range(2))
    after = dict(trainer.network.named_parameters())
    assert sum(not torch.equal(after[n], p) for n, p in before.items()) > 0.5 * len(before)
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch(trainer))["loss"])

    checkpoint = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.save_checkpoint(str(checkpoint))
    assert torch.load(checkpoint, weights_only=False)["trainer_name"] == name
    continued = make(cls, prepared_plans, CONFIGURATIONS[dim])
    continued.load_checkpoint(str(checkpoint))
    assert continued.current_epoch == 1
    for n, tensor in continued.network.state_dict().items():
        assert torch.equal(tensor, trainer.network.state_dict()[n]), n

    folder = Path(trainer.output_folder_base)
    assert folder.name.split("__")[0] == name
    (folder / "plans.json").write_text(json.dumps(prepared_plans["plans"]))
    (folder / "dataset.json").write_text(json.dumps(prepared_plans["dataset_json"]))
    predictor = make_predictor(folder)
    assert predictor.network.state_dict().keys() == trainer.network.state_dict().keys()
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    # nnU-Net takes (C, X, Y, Z), in 2d a stack of slices
    logits = predictor.predict_logits_from_preprocessed_data(image[0] if dim == 3 else image)
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        expected = trainer.network(image)
    # nnU-Net predicts in float16
    torch.testing.assert_close(logits.float().squeeze(), expected.squeeze(), rtol=2e-3, atol=2e-3)
    checkpoint.unlink()  # the temporary folders of many tests would fill the disk


def test_a_model_of_version_0_1_predicts_the_same():
    """A trained model and its prediction, both saved by the code of version 0.1 (commit 732375c)."""
    folder = Path(__file__).resolve().parents[1] / "data" / "trained_0_1"
    with np.load(folder / "prediction.npz") as saved:
        image, expected = torch.from_numpy(saved["image"]), torch.from_numpy(saved["logits"])
    (model,) = folder.glob("nnUNetTrainerXAttnRes__*")
    logits = make_predictor(model).predict_logits_from_preprocessed_data(image).float()
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=2e-3, atol=2e-3)  # float16
