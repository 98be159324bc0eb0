"""Trained models, folders TRAINER__PLANS__CONFIGURATION in nnUNet_results, and the cases that they predict."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import Tensor, nn

from .errors import UserError, first_line, last_line
from .quiet import silence_libraries


def check_folders(folders: Mapping[str, Path | None]) -> None:
    """Raise a UserError if the folder of an option that is given does not exist."""
    for option, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"{option} {folder} is no folder")


def channel_names(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """The names of the channels by their numbers; files of the first nnU-Net call them modalities."""
    return dataset_json.get("channel_names") or dataset_json["modality"]


def find_folds(model: Path, folds: Sequence[str] | None, checkpoint: str) -> list[str]:
    """The folds of a model that have a checkpoint.

    Args:
        model: the folder of the model.
        folds: the folds to take, such as "0" or "all"; None for all that are trained, "all" only if it is the only one,
            as nnU-Net chooses.
        checkpoint: the name of the checkpoint file.

    Raises:
        UserError: if the folder is no model, or lacks one of the folds.
    """
    missing = [name for name in ("dataset.json", "plans.json") if not (model / name).is_file()]
    if missing:
        raise UserError(
            f"-m {model} has no {' and no '.join(missing)}: expected the folder of a trained model, such as "
            "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
        )
    names = sorted(path.parent.name.removeprefix("fold_") for path in model.glob(f"fold_*/{checkpoint}"))
    found = [name for name in names if re.fullmatch(r"\d+|all", name)]
    absent = [fold for fold in folds or [] if fold not in found]
    if not found or absent:
        what = f"fold_{absent[0]}/{checkpoint}" if absent else f"fold with {checkpoint}"
        raise UserError(f"-m {model} has no {what}: finish the training, or choose folds with -f")
    default = [fold for fold in found if fold != "all"] or found
    return list(dict.fromkeys(folds or default))


def load_model(predictor: nnUNetPredictor, model: Path, folds: Sequence[str], checkpoint: str) -> None:
    """Initialise a predictor with the networks of a model.

    Raises:
        UserError: if a checkpoint cannot be read, its trainer is not found, or its weights do not fit the network.
    """
    with silence_libraries():
        try:
            predictor.initialize_from_trained_model_folder(str(model), list(folds), checkpoint)
            for parameters in predictor.list_of_parameters:
                uncompiled_network(predictor).load_state_dict(parameters)
        except Exception as error:  # unpickling and other people's trainers raise anything
            raise UserError(f"-m {model} cannot be loaded ({first_line(error)})") from None


def uncompiled_network(predictor: nnUNetPredictor) -> nn.Module:
    """The network of an initialised predictor, which nnU-Net compiles where the variable nnUNet_compile is set."""
    network: Any = predictor.network
    return getattr(network, "_orig_mod", network)


def find_cases(images: Path, file_ending: str) -> dict[str, list[str]]:
    """The files of every case in a folder, by its name, channel after channel.

    Raises:
        UserError: if there are none.
    """
    # not nnU-Net's own search, which starts processes that can wait for each other for ever
    cases: dict[str, list[str]] = {}
    for path in sorted(images.iterdir()):
        if named := re.fullmatch(rf"(.+)_\d{{4}}{re.escape(file_ending)}", path.name):
            cases.setdefault(named[1], []).append(str(path))
    if not cases:
        raise UserError(f"-i {images} has no images: expected names such as CASE_0000{file_ending}")
    return cases


def find_case_file(option: str, folder: Path | None, case: str, file_ending: str) -> Path | None:
    """The file of a case in the folder of an option, or None where the option is not given.

    Raises:
        UserError: if the folder has no such file.
    """
    if folder is None:
        return None
    path = folder / f"{case}{file_ending}"
    if not path.is_file():
        raise UserError(f"{option} {folder} has no {path.name}: expected a file for every image")
    return path


def check_previous_stage(predictor: nnUNetPredictor, model: Path, previous_stage: Path | None) -> None:
    """Raise a UserError unless a folder is named for a model of a cascade, and for no other model."""
    expected = predictor.configuration_manager.previous_stage_name
    if expected is not None and previous_stage is None:
        raise UserError(
            f"-m {model} is a model of a cascade: it reads the predictions of {expected}, so name their folder with "
            "--previous-stage"
        )
    if expected is None and previous_stage is not None:
        raise UserError(f"-m {model} is no model of a cascade: leave out --previous-stage")


def read_case(predictor: nnUNetPredictor, files: Sequence[str | Path]) -> tuple[np.ndarray, dict]:
    """Read an image with the model's reader: the channels (C, *spatial), and the properties that the reader returns.

    Raises:
        UserError: if the files cannot be read as one image, or it has another number of channels than those of the
            training.
    """
    channels = channel_names(predictor.dataset_json)
    reader = predictor.plans_manager.image_reader_writer_class()
    case = re.sub(r"_\d{4}\..*", "", Path(files[0]).name)
    try:
        with silence_libraries():
            image, properties = reader.read_images([str(file) for file in files])
    except Exception as error:  # readers raise anything
        raise UserError(
            f"{case} cannot be read ({last_line(error)}): expected {len(files)} readable files of one size and spacing"
        ) from None
    if len(image) != len(channels):
        raise UserError(f"{case} has {len(image)} channels, but the model was trained on images of {len(channels)}")
    return image, properties


@torch.inference_mode()
def preprocess_case(
    predictor: nnUNetPredictor, image: np.ndarray, properties: dict, previous_stage: Path | None = None
) -> Tensor:
    """Preprocess an image as nnU-Net does before it predicts.

    Args:
        predictor: an initialised predictor.
        image: (C, *spatial).
        properties: those of the reader; nnU-Net adds what it needs to resample predictions to the image.
        previous_stage: for a cascade, the file with the segmentation of the previous stage.

    Returns:
        The data (C, *spatial), for a cascade with the labels of the previous stage as further channels.

    Raises:
        UserError: if the segmentation of the previous stage has another shape than the image.
    """
    segmentation = None
    if previous_stage is not None:
        segmentation = predictor.plans_manager.image_reader_writer_class().read_seg(str(previous_stage))[0]
        if segmentation.shape[1:] != image.shape[1:]:
            raise UserError(
                f"{previous_stage} has the shape {segmentation.shape[1:]}, its image {image.shape[1:]}: name the "
                "folder with the predictions for these images"
            )
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    data, segmentation, _ = preprocessor.run_case_npy(
        image, segmentation, properties, predictor.plans_manager, predictor.configuration_manager,
        predictor.dataset_json,
    )  # fmt: skip
    if previous_stage is not None:
        labels = predictor.label_manager.foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(segmentation[0], labels, data.dtype)))
    return torch.from_numpy(data).float().contiguous()
