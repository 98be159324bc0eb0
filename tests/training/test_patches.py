"""Patches that a network cannot train are refused before it is built, and only those: a forward pass is the judge."""

import copy

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from support.emcad import small_encoder
from support.plans import PLANS

from nnunet_xattnres.training.trainer_classes import trainer_class

BATCH_NORM = "torch.nn.modules.batchnorm.BatchNorm2d"


@pytest.fixture
def configuration(prepared_plans):
    """A function from a patch size, and other entries, to a configuration; `arch` updates the network's arguments."""

    def make(patch_size, batch_size=2, name=None, **arch):
        name = name or {2: "2d", 3: "3d_fullres"}[len(patch_size)]
        plans = copy.deepcopy(prepared_plans["plans"])
        entries = plans["configurations"][name]
        entries |= {"patch_size": list(patch_size), "batch_size": batch_size}
        entries["architecture"]["arch_kwargs"] |= arch
        return PlansManager(plans).get_configuration(name)

    return make


def refuses(cls, configuration) -> bool:
    try:
        cls.check_configuration(configuration)
    except ValueError as error:
        assert cls.__name__ in str(error) and "\n" not in str(error)
        return True
    return False


def trains(cls, configuration) -> bool:
    """Whether the network computes logits of the size of the patch in training mode."""
    size = [configuration.batch_size, 1, *configuration.patch_size]
    try:
        network = cls.build_network(configuration, 1, 2, deep_supervision=cls.deep_supervision)
        outputs = network(torch.randn(size))
        logits = outputs[0] if cls.deep_supervision else outputs
    except (RuntimeError, ValueError, IndexError):
        return False
    return list(logits.shape[2:]) == size[2:]


@pytest.mark.parametrize(
    ("name", "patch_size", "batch_size", "arch"),
    [
        ("nnUNetTrainerXAttnRes", (16, 16), 2, {}),
        ("nnUNetTrainerXAttnRes", (18, 16), 2, {}),  # the strides of the plans multiply to 4
        ("nnUNetTrainerXAttnResUpsampled", (16, 6), 2, {}),
        ("nnUNetTrainerXAttnResReplace", (16, 18), 2, {}),  # no concatenation fails, but the logits are larger
        ("nnUNetTrainerNoSkip", (10, 16), 2, {}),
        ("nnUNetTrainerXAttnResGated", (2, 16), 2, {}),
        ("nnUNetTrainerXAttnRes", (4, 4), 2, {}),  # one pixel in the deepest stage, for InstanceNorm
        ("nnUNetTrainerXAttnRes", (4, 8), 1, {}),
        ("nnUNetTrainerXAttnRes", (4, 4), 1, {"norm_op": BATCH_NORM}),
        ("nnUNetTrainerXAttnRes", (4, 4), 2, {"norm_op": BATCH_NORM}),
        ("nnUNetTrainerXAttnRes", (4, 4), 1, {"norm_op": None, "norm_op_kwargs": None}),
        ("nnUNetTrainerXAttnResDecoder", (8, 8, 16), 2, {}),  # ResEnc, strides of 2, 4 and 4
        ("nnUNetTrainerXAttnResDecoder", (8, 8, 10), 2, {}),
        ("nnUNetTrainer_PaperMulticlass", (3, 8, 8), 2, {}),
        ("nnUNetTrainerXAttnRes", (2, 4, 4), 2, {}),
        ("nnUNetTrainerPaperUNetXAttnRes", (16, 16), 1, {}),
        ("nnUNetTrainerPaperUNetXAttnRes", (17, 5), 1, {}),
        ("nnUNetTrainerPaperUNet", (7, 16), 2, {}),
        ("nnUNetTrainerEMCAD", (20, 32), 1, {}),
        ("nnUNetTrainerEMCADXAttnRes", (20, 33), 1, {}),
        ("nnUNetTrainerEMCADXAttnResGated", (32, 32), 2, {}),
        ("nnUNetTrainerCSAP", (20, 32), 1, {}),
        ("nnUNetTrainerCSAPXAttnRes", (20, 33), 1, {}),
        ("nnUNetTrainerCSAPPlanned", (4, 4), 2, {}),
        ("nnUNetTrainerCSAPPlanned", (4, 8), 1, {}),
    ],
)
def test_what_the_network_cannot_train_is_refused(configuration, name, patch_size, batch_size, arch):
    with small_encoder():
        planned, cls = configuration(patch_size, batch_size, **arch), trainer_class(name)
        assert refuses(cls, planned) is not trains(cls, planned)


def test_a_network_without_a_decoder(configuration):
    """nnU-Net plans one stage for images of a few pixels."""
    one = {"n_stages": 1, "features_per_stage": [4], "kernel_sizes": [[3, 3]], "strides": [[1, 1]]}
    one |= {"n_conv_per_stage": [2], "n_conv_per_stage_decoder": []}
    planned = configuration((6, 6), **one)
    assert refuses(trainer_class("nnUNetTrainerXAttnRes"), planned)
    assert not trains(trainer_class("nnUNetTrainerXAttnRes"), planned)
    assert not refuses(trainer_class("nnUNetTrainerPaperUNet"), planned)


def test_the_message_has_sizes_that_are_accepted(configuration):
    cls = trainer_class("nnUNetTrainerXAttnRes")
    with pytest.raises(ValueError, match=r"\[16, 24\] or \[20, 24\]"):
        cls.check_configuration(configuration((18, 24)))
    with pytest.raises(ValueError, match=r"set it to \[4, 24\] "):
        cls.check_configuration(configuration((2, 24)))
    for size in ([16, 24], [20, 24], [4, 24]):
        cls.check_configuration(configuration(size))


@pytest.mark.parametrize(
    ("name", "patch_size", "refused"),
    [
        ("nnUNetTrainerXAttnRes_PaperBinary", (12, 12), False),  # three times the strides of 4
        ("nnUNetTrainerXAttnRes_PaperBinary", (8, 8), True),
        ("nnUNetTrainerXAttnRes_PaperBinary", (4, 4), True),
        ("nnUNetTrainerXAttnRes_PaperBinary", (8, 32), True),  # one side keeps its size
        ("nnUNetTrainer_PaperBinary", (8, 8), True),
        ("nnUNetTrainerPaperUNet_PaperBinary", (8, 8), False),  # the network takes any size
        ("nnUNetTrainerPaperUNet_PaperBinary", (2, 8), True),
        ("nnUNetTrainerEMCADXAttnRes_PaperBinary", (8, 32), False),
    ],
)
def test_scales_that_are_rounded_to_the_same_size(configuration, name, patch_size, refused):
    cls, planned = trainer_class(name), configuration(patch_size)
    assert refuses(cls, planned) is refused
    trainer = cls.__new__(cls)
    trainer.device, trainer.configuration_manager = torch.device("cpu"), planned
    batch = {"data": torch.zeros(1, 1, *patch_size), "target": torch.zeros(1, 1, *patch_size)}
    sizes = [trainer._scaled(batch, scale)["data"].shape[2:] for scale in cls.scales]
    assert refused is any(len(set(sides)) < 3 for sides in zip(*sizes, strict=True))


def test_a_network_that_was_trained_all_the_same_predicts(prepared_plans, configuration):
    """Prediction builds the network by its class, and does not depend on the patches of the training."""
    cls = trainer_class("nnUNetTrainerXAttnRes_PaperBinary")
    planned, manager = configuration((8, 8), batch_size=1), PlansManager(prepared_plans["plans"])
    assert refuses(cls, planned)
    assert cls.build_network_architecture(manager, planned, 1, 2, False)(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_the_smallest_scale_counts_for_the_normalisation(configuration):
    """Of patches of 40 pixels, the scale 0.75 leaves 30, which EMCAD pads to one value in the deepest stage."""
    planned = configuration((40, 40), batch_size=1)
    assert not refuses(trainer_class("nnUNetTrainerEMCAD"), planned)
    assert refuses(trainer_class("nnUNetTrainerEMCAD_PaperBinary"), planned)


def test_strides_of_another_number_of_axes(configuration):
    planned = configuration((16, 16, 16), strides=PLANS["plain 2d"][2])
    assert refuses(trainer_class("nnUNetTrainerXAttnRes"), planned)


@pytest.mark.parametrize("name", ["nnUNetTrainerXAttnRes", "nnUNetTrainerEMCAD", "nnUNetTrainer_PaperMulticlass"])
@pytest.mark.parametrize(
    "dataset",
    [
        {"labels": {"background": 0}},
        {"labels": {"background": 0, "ignore": 1}},
        {"channel_names": {"0": "CT", "1": "PET"}},
        {"channel_names": {}},
    ],
    ids=["one class", "one class and ignore", "two channels", "no channels"],
)
def test_data_sets_that_do_not_match(prepared_plans, tmp_path, name, dataset):
    prepared_plans["dataset_json"].update(dataset)
    with pytest.raises(ValueError, match=f"^{name}: .*dataset.json") as error:
        trainer_class(name)(**prepared_plans, configuration="2d", fold=0, device=torch.device("cpu"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nnUNet_results").exists()
