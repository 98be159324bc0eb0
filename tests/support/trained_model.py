"""Folders of trained models as nnU-Net writes them, with random weights."""

import json

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_xattnres.training.trainer_classes import trainer_class

from .plans_file import plans_dict

TRAINER = "nnUNetTrainerXAttnRes"
DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


def save_model(folder, trainer=TRAINER, folds=(0, 1), configuration="2d", dataset=DATASET, **planned):
    """A model of random weights, as if it had been trained.

    Args:
        folder: the folder to make.
        trainer: the name of the trainer.
        folds: the folds with a checkpoint.
        configuration: "2d" or "3d_fullres", in 3d_lowres and 3d_cascade_fullres the network of "3d_fullres".
        dataset: the content of dataset.json.
        planned: entries of the configuration that differ.
    """
    plans = plans_dict() | {
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "image_reader_writer": "SimpleITKIO",
    }  # fmt: skip
    statistics = dict.fromkeys(("mean", "std", "min", "max", "percentile_00_5", "percentile_99_5"), 1.0)
    plans["foreground_intensity_properties_per_channel"] = {n: statistics for n in dataset["channel_names"]}
    schemes = ["ZScoreNormalization"] * len(dataset["channel_names"])
    for content in plans["configurations"].values():
        content |= {
            "preprocessor_name": "DefaultPreprocessor", "normalization_schemes": schemes,
            "use_mask_for_norm": [False] * len(schemes),
            **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")},
            "resampling_fn_data_kwargs": RESAMPLING, "resampling_fn_probabilities_kwargs": RESAMPLING,
            "resampling_fn_seg_kwargs": RESAMPLING | {"is_seg": True},
        }  # fmt: skip
    plans["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres", "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"][configuration] |= planned
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    manager = PlansManager(plans)
    configured = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, configured, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = trainer_class(trainer).build_network_architecture(manager, configured, channels, heads, True)
        for name, parameter in network.named_parameters():
            if name.endswith("pseudo_query"):
                torch.nn.init.normal_(parameter)
        (folder / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(), "trainer_name": trainer,
            "init_args": {"configuration": configuration}, "inference_allowed_mirroring_axes": (0, 1),
        }  # fmt: skip
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
