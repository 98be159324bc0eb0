"""The trainers of USEMA: the networks they build, and what they refuse before anything is written."""

import pytest
import torch

from nnunet_xattnres.networks.usema import USEMAResidualEncoderUNet, USEMAUNet
from nnunet_xattnres.training.trainer_classes import trainer_class
from nnunet_xattnres.training.usema import nnUNetTrainerUSEMA, nnUNetTrainerUSEMABot


def make(arguments, cls, configuration="2d"):
    return cls(**arguments, configuration=configuration, fold=0, device=torch.device("cpu"))


def edit(arguments, configuration="2d", **kwargs):
    arguments["plans"]["configurations"][configuration]["architecture"]["arch_kwargs"].update(kwargs)


FOUR_STAGES = {
    "n_stages": 4, "features_per_stage": [4, 8, 8, 12], "kernel_sizes": [[3, 3]] * 4,
    "strides": [[1, 1], [2, 2], [2, 2], [2, 2]], "n_conv_per_stage": [1] * 4, "n_conv_per_stage_decoder": [1] * 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stages", "layers"),
    [
        ("nnUNetTrainerUSEMA", ["1", "3"], []),
        ("nnUNetTrainerUSEMAXAttnResEncoder", ["1", "3"], ["1", "2", "3"]),
        ("nnUNetTrainerUSEMABot", ["3"], []),
        ("nnUNetTrainerUSEMABotXAttnResDecoder_PaperMulticlass_5epochs", ["3"], ["4", "5", "6"]),
    ],
)
def test_blocks_and_layers(prepared_plans, name, stages, layers):
    edit(prepared_plans, **FOUR_STAGES)
    trainer = make(prepared_plans, trainer_class(name))
    network = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    assert type(network) is USEMAUNet
    assert list(network.sema) == stages
    assert list(network.xattnres) == layers


def test_residual_encoder(prepared_plans):
    trainer = make(prepared_plans, nnUNetTrainerUSEMA, "3d_fullres")
    network = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    assert type(network) is USEMAResidualEncoderUNet


class Options(nnUNetTrainerUSEMA):
    network_options = {"encoder": False, "decoder": False, "window": 5, "head_width": 4, "scale": True}  # noqa: RUF012


def test_a_trainer_with_other_options(prepared_plans):
    trainer = make(prepared_plans, Options)
    network = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2)
    attention = network.sema["2"].attention
    assert (attention.window, attention.heads, attention.scale) == (5, 3, True)
    assert len(network.xattnres) == 0


@pytest.mark.parametrize(
    ("cls", "plans", "facts"),
    [
        (nnUNetTrainerUSEMA, {**FOUR_STAGES, "features_per_stage": [24, 48, 96, 192]}, ("stage 1", "32", "48")),
        (nnUNetTrainerUSEMABot, {"features_per_stage": 100}, ("stage 2", "32", "100")),
        (type("Odd", (Options,), {"network_options": {"head_width": 5}}), {}, ("stage 2", "even", "5")),
        (type("Unknown", (Options,), {"network_options": {"windows": 5}}), {}, ("windows", "window")),
    ],
)
def test_an_error_before_anything_is_written(prepared_plans, tmp_path, cls, plans, facts):
    edit(prepared_plans, **plans)
    with pytest.raises(ValueError) as error:
        make(prepared_plans, cls)
    message = str(error.value)
    assert message.startswith(f"{cls.__name__}: ") and "\n" not in message
    assert all(fact in message for fact in facts)
    assert not (tmp_path / "nnUNet_results").exists()


def test_widths_that_the_head_width_does_not_divide_matter_in_stages_with_blocks_only(prepared_plans):
    edit(prepared_plans, **FOUR_STAGES | {"features_per_stage": [24, 48, 96, 64]})
    make(prepared_plans, nnUNetTrainerUSEMABot)
