"""A folder of a trained model for others, which nnUNetv2_predict_from_modelfolder takes as it is.

The folder has the weights without the state of the training, plans.json, dataset.json, the model card, and checksums.
The scores of single cases are left out. Of dataset.json there are the entries that predictions and plans depend on, and
descriptions of the data without a local path, but no list of cases. Where plans can name the network, nnU-Net's own
trainer builds it from them, so that the trainer is not needed where the model predicts.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import files as installed_files
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from ..networks.plans import planned_architecture
from ..training.lookup import find_trainer
from ..training.names import PREFIX, TrainerName, parse, trainer_names
from ..training.patches import planned_strides
from ..training.planned import PlannedNetworkTrainer
from ..training.warm_start import logits_difference
from ..utils.checkpoints import read_checkpoint
from ..utils.errors import UserError, last_line
from ..utils.files import check_new_folder, new_folder, read_json, sha256
from ..utils.plans_file import get_configuration, read_plans
from ..utils.quiet import silence_libraries
from ..utils.trained_models import find_folds, load_model, uncompiled_network
from .model_card import Fold, ModelFacts, RequiredCode, Scores, model_card, uses_package

CHECKPOINT = "checkpoint_final.pth"
"""The name of the checkpoints in the new folder, which nnU-Net takes by default."""

_PACKAGE = __package__.partition(".")[0]

_READ_BY_NNUNET = (
    "channel_names", "modality", "labels", "regions_class_order", "file_ending", "numTraining",
    "overwrite_image_reader_writer",
)  # fmt: skip
"""Entries of dataset.json that nnU-Net reads, without the list of the files of cases, `dataset`."""

_DESCRIBES_DATA = ("name", "description", "reference", "licence", "license", "release")
"""Entries of dataset.json in which the data set is described."""

_LOCAL_PATH = re.compile(r"""(?<![^\s"'`(\[{<=,;:|])(~\w*/|/(?!/)\S|[A-Za-z]:[\\/]|\\\\\w)|\bfile:/""")
"""An absolute path at the beginning of a text or of a word in it; the path in the URL of a website is none."""


@dataclass(frozen=True)
class WrittenFolder:
    """A written folder; `str()` lists its files and says what is not as in the model.

    Attributes:
        folder: where it is.
        files: the files, relative to the folder.
        notes: what has been changed or left out, and what is left to do, a line each.
    """

    folder: Path
    files: list[Path]
    notes: list[str]

    def __str__(self) -> str:
        return "\n".join([*(f"written: {self.folder / file}" for file in self.files), *self.notes])


def write_model_folder(model: Path, out: Path, folds: Sequence[str], checkpoint: str = CHECKPOINT) -> WrittenFolder:
    """Write a folder of a trained model for others.

    The folder appears when it is complete: nnU-Net's predictor has loaded it, with the weights of the model, and if its
    network is built in another way than the model's, both have given equal logits for a random image, bit for bit.

    Args:
        model: the folder of the model, TRAINER__PLANS__CONFIGURATION in nnUNet_results; it is not changed.
        out: the folder to write, which must not exist or be empty, outside of the model's folder. An empty folder stays
            the same one, so that it can be a mount point or the target of a symbolic link.
        folds: the folds, such as "0" or "all".
        checkpoint: the name of the checkpoint file whose weights are taken.

    Raises:
        UserError: if the model cannot be loaded, a fold is missing, the folds are of different trainings, or the folder
            has files, is in the model's folder, or cannot be written.
    """
    folds = list(dict.fromkeys(find_folds(model, folds, checkpoint)))
    out = out.absolute()
    if out.resolve().is_relative_to(model.resolve()):
        raise UserError(f"-o {out} is the folder of the model or a folder in it: choose one outside of -m {model}")
    check_new_folder(out)
    writer = _Writer(model, folds, checkpoint)  # reads the model, so that nothing is begun if it is unsuitable
    with new_folder(out) as temporary:
        notes = writer.write(temporary)
    return WrittenFolder(out, sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()), notes)


class _Writer:
    """Writes the folder of a model, file after file."""

    def __init__(self, model: Path, folds: Sequence[str], checkpoint: str):
        self.model, self.folds, self.checkpoint = model, folds, checkpoint
        self.notes: list[str] = []
        content = self._read_checkpoint(folds[0], weights_on_disk=True)
        self.trainer_name, self.configuration_name = content["trainer_name"], content["init_args"]["configuration"]
        # of a model that this module has written, those of the training
        self.trained_by = content.get("trained_by", self.trainer_name)
        self.trained_checkpoint = content.get("trained_checkpoint", checkpoint)
        plans = read_plans(model / "plans.json")
        configuration = get_configuration(plans, self.configuration_name, model / "plans.json")
        self.plans, self.trained_plans = plans.plans, plans.plans_name
        self.dataset = self._select_entries(read_json(model / "dataset.json", "nnU-Net's dataset.json"))
        self.saved_trainer_name = self._replace_trainer(configuration)

    def write(self, out: Path) -> list[str]:
        """Write all files into an empty folder, check them, and return the notes."""
        self.out = out
        self._write_json("plans.json", self.plans)
        self._write_json("dataset.json", self.dataset)
        trained = [self._write_fold(fold) for fold in self.folds]
        cross_validation, postprocessing = self._write_cross_validation()
        loaded = self._check()
        required_code = _required_code(find_trainer(self.saved_trainer_name), loaded.network)
        facts = ModelFacts(
            self.plans, self.dataset, self.configuration_name, loaded.configuration_manager, loaded.network,
            self.trained_by, self.trained_plans, required_code, self.trained_checkpoint, loaded.allowed_mirroring_axes,
            trained, cross_validation, postprocessing,
        )  # fmt: skip
        self._write_text("README.md", model_card(facts))
        # without the model card, which is to be edited
        files = [path for path in sorted(self.out.rglob("*")) if path.is_file() and path.name != "README.md"]
        sums = [f"{sha256(path)}  {path.relative_to(self.out).as_posix()}\n" for path in files]
        self._write_text("SHA256SUMS", "".join(sums))
        return [
            *self.notes,
            f"what it needs to predict: {required_code.value}",
            "README.md is the model card: write the licence into it",
        ]

    def _replace_trainer(self, configuration: ConfigurationManager) -> str:
        """The name of the trainer in the new checkpoints, and plans from which it builds the network.

        This is nnUNetTrainer if plans can name the network, and the trainer of this package from which a user's trainer
        inherits how its network is built.
        """
        trainer = find_trainer(self.trainer_name)
        architecture = _architecture(trainer, configuration)
        name = _base_trainer_name(trainer) if architecture is None else nnUNetTrainer.__name__
        if name != self.trainer_name:
            self.notes.append(f"the trainer in the checkpoints is {name} instead of {self.trainer_name}")
        if architecture not in (None, configuration.configuration["architecture"]):
            replaced = {**configuration.configuration, "architecture": architecture}
            replaced.pop("inherits_from", None)
            plans_name = self.trained_plans + _network_name(self.trainer_name).removeprefix(PREFIX)
            # the networks of other configurations have not been trained
            configurations = {self.configuration_name: replaced}
            self.plans = {**self.plans, "plans_name": plans_name, "configurations": configurations}
            self.notes.append(
                f"plans.json is named {plans_name}: its network is {architecture['network_class_name']}, and it has "
                f"the configuration {self.configuration_name} alone"
            )
        return name

    def _write_fold(self, fold: str) -> Fold:
        """Write the weights and scores of a fold."""
        content = self._read_checkpoint(fold)
        training = content["trainer_name"], content["init_args"]["configuration"]
        if training != (self.trainer_name, self.configuration_name):
            raise UserError(
                f"-m {self.model}: fold_{fold} is of {' '.join(training)}, fold_{self.folds[0]} of {self.trainer_name} "
                f"{self.configuration_name}: choose folds of one training with -f"
            )
        axes, epochs = content.get("inference_allowed_mirroring_axes"), content.get("current_epoch")
        kept = {
            "network_weights": content["network_weights"],
            "trainer_name": self.saved_trainer_name,
            "trained_by": self.trained_by,
            "trained_checkpoint": self.trained_checkpoint,
            "init_args": {
                "plans": self.plans,
                "configuration": self.configuration_name,
                "fold": int(fold) if fold.isdecimal() else fold,
                "dataset_json": self.dataset,
            },
            "inference_allowed_mirroring_axes": None if axes is None else tuple(int(axis) for axis in axes),
            "current_epoch": epochs,
        }
        if fold == self.folds[0]:
            left_out = [*(content.keys() - kept.keys()), *(content["init_args"].keys() - kept["init_args"].keys())]
            self.notes += [f"left out of the checkpoints: {', '.join(sorted(left_out))}"] * bool(left_out)
        (self.out / f"fold_{fold}").mkdir()
        try:
            torch.save(kept, self.out / f"fold_{fold}" / CHECKPOINT)
        except RuntimeError as error:  # PyTorch's, for instance where the disk is full
            raise OSError(0, last_line(error)) from None
        debug = self.model / f"fold_{fold}" / "debug.json"
        torch_version = read_json(debug, "nnU-Net's debug.json").get("torch_version") if debug.is_file() else None
        scores = self._write_scores(f"fold_{fold}/validation/summary.json")
        return Fold(fold, epochs, torch_version, scores)

    def _write_cross_validation(self) -> tuple[Scores | None, str | None]:
        """Write what nnU-Net has computed of all folds together; the scores, and the path of the postprocessing."""
        numbers: list[Any] = [int(fold) if fold.isdecimal() else fold for fold in self.folds]
        numbers.sort(key=lambda number: (isinstance(number, str), number))
        folder = f"crossval_results_folds_{folds_tuple_to_string(numbers)}"
        scores = self._write_scores(f"{folder}/summary.json")
        postprocessing = f"{folder}/postprocessing.pkl"
        if not (self.model / postprocessing).is_file():
            return scores, None
        (self.out / folder).mkdir(exist_ok=True)
        shutil.copyfile(self.model / postprocessing, self.out / postprocessing)
        return scores, postprocessing

    def _write_scores(self, name: str) -> Scores | None:
        """Write the means of one of nnU-Net's summaries, without the cases; None if it does not exist."""
        if not (self.model / name).is_file():
            return None
        summary = read_json(self.model / name, "nnU-Net's summary of a validation")
        means = {key: summary[key] for key in ("foreground_mean", "mean") if key in summary}
        try:
            by_label = {label: float(mean["Dice"]) for label, mean in means["mean"].items()}
            mean = float(means["foreground_mean"]["Dice"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{self.model / name} is not a summary of a validation by nnU-Net: move it away") from None
        (self.out / name).parent.mkdir(exist_ok=True)
        self._write_json(name, means)
        cases = summary.get("metric_per_case")
        return Scores(len(cases) if isinstance(cases, list) else None, mean, by_label)

    def _check(self) -> nnUNetPredictor:
        """Load the folder as nnU-Net does, and compare it with the model; the predictor of its last fold."""
        for fold in self.folds:
            trained, written = _load(self.model, fold, self.checkpoint), _load(self.out, fold, CHECKPOINT)
            expected, weights = trained.network.state_dict(), written.network.state_dict()
            equal = weights.keys() == expected.keys() and all(torch.equal(weights[n], expected[n]) for n in weights)
            if fold == self.folds[0] and self.saved_trainer_name != self.trainer_name:
                equal = equal and _have_equal_logits(trained, written)
            if not equal:
                raise UserError(
                    f"-m {self.model}: the network of {self.trainer_name} is not the one that plans describe, so the "
                    "folder is not written; please report this"
                )
        return written

    def _select_entries(self, dataset: dict[str, Any]) -> dict[str, Any]:
        """The entries of dataset.json that nnU-Net reads, and descriptions of the data without a local path."""
        kept = {
            name: value
            for name, value in dataset.items()
            if name in _READ_BY_NNUNET or (name in _DESCRIBES_DATA and not any(_local_paths(value)))
        }
        left_out = [name for name in dataset if name not in kept]
        self.notes += [f"left out of dataset.json: {', '.join(left_out)}"] * bool(left_out)
        for file, content in (("dataset.json", kept), ("plans.json", self.plans)):
            self.notes += [f"{file} has a local path, which is kept: {text}" for text in _local_paths(content)]
        return kept

    def _read_checkpoint(self, fold: str, weights_on_disk: bool = False) -> dict[str, Any]:
        return read_checkpoint(self.model / f"fold_{fold}" / self.checkpoint, weights_on_disk)

    def _write_json(self, name: str, content: Any) -> None:
        self._write_text(name, json.dumps(content, indent=4) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        (self.out / name).write_text(text, encoding="utf-8")


def _load(model: Path, fold: str, checkpoint: str) -> Any:
    """nnU-Net's predictor with a fold of a model, on the CPU."""
    with silence_libraries():  # nnU-Net prints that it predicts on the CPU
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    load_model(predictor, model, [fold], checkpoint)
    predictor.network = uncompiled_network(predictor)
    return predictor


def _architecture(trainer: type[nnUNetTrainer], configuration: ConfigurationManager) -> dict[str, Any] | None:
    """The entry `architecture` with which nnUNetTrainer builds the network of a trainer; None if there is none.

    Users' subclasses of nnUNetTrainer and of this package's trainers have one, too, if they inherit how it is built.
    """
    build: Any = trainer.build_network_architecture
    if build is nnUNetTrainer.build_network_architecture:
        return dict(configuration.configuration["architecture"])
    if not issubclass(trainer, PlannedNetworkTrainer):
        return None
    if not _builds_as(PlannedNetworkTrainer, trainer):
        return None
    architecture = planned_architecture(configuration, trainer.networks, **trainer.options())
    if not architecture["network_class_name"].startswith(f"{_PACKAGE}."):
        return None  # a network in a file of the user's
    with contextlib.suppress(TypeError):  # for options that JSON does not have
        return json.loads(json.dumps(architecture))
    return None


def _base_trainer_name(trainer: Any) -> str:
    """The trainer of this package that builds the network of a trainer, which can be itself or a user's subclass."""
    names = set(trainer_names(lengths=True))
    for base in trainer.__mro__:
        if base.__name__ in names and _is_of(_PACKAGE, base) and _builds_as(base, trainer):
            return base.__name__ if base.network_options == trainer.network_options else trainer.__name__
    return trainer.__name__


def _builds_as(base: Any, trainer: Any) -> bool:
    """Whether a subclass of a trainer of this package inherits the methods that build the network."""
    methods = ("build_network_architecture", "build_network")
    return all(getattr(base, method).__func__ is getattr(trainer, method).__func__ for method in methods)


def _network_name(trainer_name: str) -> str:
    """The name of a trainer without recipe and length, which plans do not have.

    >>> _network_name("nnUNetTrainerXAttnResGated_PaperBinary_50epochs"), _network_name("nnUNetTrainerMine")
    ('nnUNetTrainerXAttnResGated', 'nnUNetTrainerMine')
    """
    try:
        parts = parse(trainer_name)
    except ValueError:
        return trainer_name
    return str(TrainerName(parts.network, parts.routing))


def _required_code(trainer: type, network: nn.Module) -> RequiredCode:
    """What has to be installed where the model predicts."""
    if not _is_of_nnunet(trainer):
        return RequiredCode.TRAINERS if _is_of(_PACKAGE, trainer) else RequiredCode.OWN_TRAINER
    if not (_is_of(_PACKAGE, type(network)) or _is_network_of_nnunet(type(network))):
        return RequiredCode.OWN_NETWORK
    return RequiredCode.PACKAGE if uses_package(network) else RequiredCode.NOTHING


def _is_of(package: str, cls: type) -> bool:
    return cls.__module__.partition(".")[0] == package


def _is_of_nnunet(trainer: type) -> bool:
    """Whether a trainer is in a file that has been installed with nnU-Net, among which users put files of their own.

    An installation for editing does not list its files: nnUNetTrainer alone counts as one of nnU-Net's.
    """
    return trainer is nnUNetTrainer or _is_installed_with("nnunetv2", trainer)


def _is_network_of_nnunet(network: type) -> bool:
    """Whether a network is in a file that has been installed with nnU-Net or with the package of its networks."""
    if network in (PlainConvUNet, ResidualEncoderUNet):
        return True
    return any(_is_installed_with(name, network) for name in ("dynamic_network_architectures", "nnunetv2"))


def _is_installed_with(distribution: str, cls: type) -> bool:
    """Whether a distribution has installed the file of a class; an installation for editing does not list its files."""
    file = f"{cls.__module__.replace('.', '/')}.py"
    return any(path.as_posix() == file for path in installed_files(distribution) or [])


def _have_equal_logits(trained: nnUNetPredictor, written: nnUNetPredictor) -> bool:
    """Whether two predictors' networks give the same logits for a small random image, bit for bit."""
    configuration = trained.configuration_manager
    size = list(configuration.patch_size)
    if len(size) == 3:  # patches take minutes
        with contextlib.suppress(KeyError, ValueError):  # of plans whose network is not a U-Net
            strides = planned_strides(configuration)
            size = [min(side, 2 * stride) for side, stride in zip(size, strides, strict=True)]
    channels = determine_num_input_channels(trained.plans_manager, configuration, trained.dataset_json)
    image = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    return logits_difference(trained.network, written.network, image) == 0


def _local_paths(value: Any) -> Iterator[str]:
    """The strings in a value, keys among them, that have an absolute path."""
    if isinstance(value, str) and _LOCAL_PATH.search(value):
        yield value
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            yield from _local_paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _local_paths(item)
