"""The model card of a trained model: Markdown with the YAML front matter that the Hugging Face hub reads.

Everything on the card comes from the files of the model. What they do not say is listed as not recorded.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from typing import Any

import torch
import yaml
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from .. import __version__
from ..training.patches import describe_size
from ..utils.trained_models import channel_names


class RequiredCode(Enum):
    """What a model needs where it predicts; the values are in words."""

    NOTHING = "nnU-Net alone"
    PACKAGE = "nnunet-xattnres, but no nnUNet_extTrainer"
    TRAINERS = 'nnunet-xattnres, and export nnUNet_extTrainer="$(xattnres trainers)"'
    OWN_TRAINER = "the file of its trainer, in a folder that nnUNet_extTrainer names"
    OWN_NETWORK = "the code of its network, which plans.json names, where Python can import it"


@dataclass(frozen=True)
class Scores:
    """The Dice of a validation, not finite where a label occurs in no case.

    Attributes:
        cases: the number of cases, None if it is not known.
        mean: the mean over the foreground labels or regions.
        by_label: by nnU-Net's key, such as "1" or "(1, 2)".
    """

    cases: int | None
    mean: float
    by_label: Mapping[str, float]


@dataclass(frozen=True)
class Fold:
    """What is known of a fold's training; None for what is not.

    Attributes:
        name: such as "0" or "all".
        epochs: the epochs after which the weights were saved.
        torch_version: the version of PyTorch that trained it.
        scores: of nnU-Net's final validation.
    """

    name: str
    epochs: int | None
    torch_version: str | None
    scores: Scores | None


@dataclass(frozen=True)
class ModelFacts:
    """What the card says.

    Attributes:
        plans: the content of plans.json.
        dataset: the content of dataset.json.
        configuration_name: such as "2d".
        configuration: of the plans.
        network: the trained network.
        trainer: the name of the trainer that has trained it.
        trained_plans: the name of the plans with which it has been trained.
        required_code: what prediction needs.
        checkpoint: the name of the checkpoint file from which the weights come.
        mirror_axes: the axes of the patch along which prediction mirrors; empty or None for none.
        folds: the folds in the folder.
        cross_validation: the scores of all folds together, None if they have not been computed.
        postprocessing: the path of postprocessing.pkl in the folder, None if there is none.
    """

    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration_name: str
    configuration: ConfigurationManager
    network: nn.Module
    trainer: str
    trained_plans: str
    required_code: RequiredCode
    checkpoint: str
    mirror_axes: Sequence[int] | None
    folds: Sequence[Fold]
    cross_validation: Scores | None
    postprocessing: str | None

    @property
    def channels(self) -> list[str]:
        """The names of the channels."""
        names = channel_names(self.dataset)
        return [_one_line(names[number]) for number in sorted(names, key=int)]

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """The foreground labels or regions by name: the values that belong to each."""
        labels = {_one_line(name): _values(value) for name, value in self.dataset["labels"].items() if name != "ignore"}
        return {name: values for name, values in labels.items() if set(values) != {0}}

    @property
    def has_regions(self) -> bool:
        """Whether the network predicts regions instead of labels."""
        return PlansManager(dict(self.plans)).get_label_manager(dict(self.dataset)).has_regions

    @property
    def uses_package(self) -> bool:
        """Whether the network or a module in it is of this package."""
        return uses_package(self.network)

    @property
    def classes(self) -> set[str]:
        """The names of the classes of the network and its modules."""
        return {cls.__name__ for module in self.network.modules() for cls in type(module).__mro__}


def uses_package(network: nn.Module) -> bool:
    """Whether a network or a module in it is of this package."""
    package = __package__.partition(".")[0]
    return any(type(module).__module__.partition(".")[0] == package for module in network.modules())


_FRONT_MATTER_LICENCE = "# license: choose one (https://huggingface.co/docs/hub/repositories-licenses)"

_CITATIONS = {
    "nnU-Net": "Isensee, Jaeger, Kohl, Petersen and Maier-Hein. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18, 203-211, 2021.",
    "XAttnRes": "Liu, Xu and Chen. XAttnRes: Cross-Stage Attention Residuals for Medical Image Segmentation. arXiv "
    "2604.03297, 2026.",
    "EMCAD": "Rahman, Munir and Marculescu. EMCAD: Efficient Multi-scale Convolutional Attention Decoding for Medical "
    "Image Segmentation. CVPR 2024.",
    "CSAP": "Kang. Cross-Stage Attention Propagation for Efficient Semantic Segmentation. arXiv 2604.05431, 2026.",
    "SegNeXt": "Guo, Lu, Hou, Liu, Cheng and Hu. SegNeXt: Rethinking Convolutional Attention Design for Semantic "
    "Segmentation. NeurIPS 2022.",
    "USEMA": "Dayag, Tran and Xin. USEMA: a Scalable Efficient Mamba Like Attention for Medical Image Segmentation. "
    "arXiv 2605.11131, 2026.",
}

_CITED_FOR = {
    "XAttnRes": {"XAttnRes", "PaperUNet"},
    "EMCAD": {"EMCAD"},
    "CSAP": {"CSAP", "CSAPPlannedMixin"},
    "SegNeXt": {"MSCAN"},
    "USEMA": {"USEMAMixin"},
}
"""The classes of modules for which a paper is cited; nnU-Net is always cited."""


def model_card(facts: ModelFacts) -> str:
    """The model card, for README.md."""
    parts = [
        _front_matter(facts), _title(facts), _how_to_predict(facts), _input_and_output(facts), _training(facts),
        _validation(facts), _not_recorded(facts), _licence(facts), _citation(facts),
    ]  # fmt: skip
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def _front_matter(facts: ModelFacts) -> Iterator[str]:
    dim = f"{len(facts.configuration.patch_size)}d"
    tags = ["nnunet", "nnunetv2", "image-segmentation", "pytorch", dim, *(_cited(facts)[1:])]
    metadata = {"library_name": "nnunet", "pipeline_tag": "image-segmentation", "tags": [tag.lower() for tag in tags]}
    yield f"---\n{_FRONT_MATTER_LICENCE}\n{yaml.safe_dump(metadata, sort_keys=False)}---"


def _title(facts: ModelFacts) -> Iterator[str]:
    network = type(facts.network)
    yield f"# {facts.plans['dataset_name']}, {facts.configuration_name}, {network.__name__}\n"
    origin = f" of nnunet-xattnres {__version__}" if network.__module__.startswith("nnunet_xattnres.") else ""
    yield (
        f"A model of [nnU-Net v2](https://github.com/MIC-DKFZ/nnUNet) for images with the {_channels(facts)}. It "
        f"segments {_listed(facts.labels)}. Its network is `{network.__name__}`{origin}, with "
        f"{_millions(facts.network)} parameters."
    )


def _how_to_predict(facts: ModelFacts) -> Iterator[str]:
    yield "## How to predict\n"
    yield "Install [PyTorch](https://pytorch.org/get-started/locally/) for your GPU first. IMAGES and PREDICTIONS are"
    yield "folders, MODEL is this folder.\n"
    yield "```bash"
    own_network = facts.required_code is RequiredCode.OWN_NETWORK
    network_name = facts.configuration.network_arch_class_name
    if facts.required_code is RequiredCode.NOTHING or (own_network and not facts.uses_package):
        yield f"pip install nnunetv2=={version('nnunetv2')}"
    else:
        yield f"pip install ./nnunet-xattnres    # a checkout of nnunet-xattnres {__version__} or newer"
    if facts.required_code is RequiredCode.TRAINERS:
        yield 'export nnUNet_extTrainer="$(xattnres trainers)"'
    if facts.required_code is RequiredCode.OWN_TRAINER:
        yield f"export nnUNet_extTrainer=FOLDER    # the folder of the Python file that defines {facts.trainer}"
    if own_network:
        yield f"export PYTHONPATH=FOLDER    # the folder from which Python imports {network_name}"
    previous = facts.configuration.previous_stage_name
    options = "" if previous is None else " -prev_stage_predictions PREVIOUS"
    folds = " ".join(fold.name for fold in facts.folds)
    yield f"nnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m MODEL -f {folds}{options}"
    if facts.postprocessing is not None:
        yield (
            f"nnUNetv2_apply_postprocessing -i PREDICTIONS -o POSTPROCESSED -pp_pkl_file MODEL/{facts.postprocessing} "
            "-plans_json MODEL/plans.json -dataset_json MODEL/dataset.json"
        )
    yield "```\n"
    if facts.required_code is RequiredCode.PACKAGE:
        yield "plans.json names the network, so nnU-Net finds it without `nnUNet_extTrainer`.\n"
    if facts.required_code is RequiredCode.OWN_TRAINER:
        yield (
            f"{facts.trainer} is not in a file that is known to be installed with nnU-Net or nnunet-xattnres. Its file "
            "is not in this folder.\n"
        )
    if own_network:
        yield (
            f"plans.json names the network `{network_name}`, which is not in a file that is known to be installed with "
            "nnU-Net or nnunet-xattnres. Its code is not in this folder, nor are packages that it imports.\n"
        )
    if previous is not None:
        yield (
            "This is the second stage of a cascade. PREVIOUS has the predictions of the first stage for the same "
            f"images, a model of the configuration `{previous}`, which is not in this folder.\n"
        )
    if facts.mirror_axes:
        axes = f"{'axes' if len(facts.mirror_axes) > 1 else 'axis'} {_listed(map(str, facts.mirror_axes))}"
        yield f"Predictions are averaged over images mirrored along the {axes} of the patch, counted from 0."
        yield "`--disable_tta` is faster and does not mirror."
    else:
        yield "Images are not mirrored for prediction."
    yield "Without a GPU, add `-device cpu`. `sha256sum --check SHA256SUMS` in this folder checks the files."


def _input_and_output(facts: ModelFacts) -> Iterator[str]:
    ending = facts.dataset["file_ending"]
    yield "## Images and labels\n"
    if facts.plans.get("image_reader_writer") == "NaturalImage2DIO" and len(facts.channels) > 1:
        yield f"An image is a file CASE_0000{ending} with the {_channels(facts)}.\n"
    else:
        files = ((name, f"CASE_{n:04d}{ending}") for n, name in enumerate(facts.channels))
        yield from _table(["channel", "file"], files)
        yield ""
    if not facts.has_regions:
        rows = ((name, ", ".join(map(str, values))) for name, values in facts.labels.items())
        yield from _table(["label", "value in the predictions"], rows)
        return
    ordered = zip(facts.labels.items(), facts.dataset["regions_class_order"], strict=True)
    written = ((name, ", ".join(map(str, values)), str(value)) for (name, values), value in ordered)
    yield from _table(["region", "labels in it", "value in the predictions"], written)
    yield ""
    yield "Regions can overlap. They are written in this order, later ones over earlier ones."


def _training(facts: ModelFacts) -> Iterator[str]:
    configuration, dataset = facts.configuration, facts.dataset
    spacing = " x ".join(f"{side:g}" for side in configuration.spacing)
    yield "## Training\n"
    rows = [("data set", facts.plans["dataset_name"])]
    rows += [(name, _one_line(dataset[name])) for name in ("description", "reference") if dataset.get(name)]
    if dataset.get("numTraining"):
        rows.append(
            ("cases in the data set", f"{dataset['numTraining']}, of which each fold but `all` leaves some out")
        )
    rows += [
        ("trainer", f"`{facts.trainer}`"),
        ("plans, configuration", f"`{facts.trained_plans}`, `{facts.configuration_name}`"),
        ("patch size", describe_size(configuration.patch_size)),
        ("batch size", str(configuration.batch_size)),
        ("spacing", f"{spacing} (mm, if the images have a spacing), in the order of nnU-Net's axes"),
        ("normalisation", _listed(dict.fromkeys(configuration.normalization_schemes))),
        ("weights", f"of `{facts.checkpoint}`, {_epochs(facts.folds)}"),
    ]
    trained = {fold.torch_version for fold in facts.folds if fold.torch_version}
    rows += [("trained with", f"PyTorch {_listed(sorted(trained))}")] * bool(trained)
    rows.append((
        "this folder was made with",
        f"nnunet-xattnres {__version__}, nnunetv2 {version('nnunetv2')}, PyTorch {torch.__version__}",
    ))  # fmt: skip
    yield from _table(["", ""], rows)


def _validation(facts: ModelFacts) -> Iterator[str]:
    scored = [(f"fold {fold.name}", fold.scores) for fold in facts.folds]
    scored += [("all cases of these folds", facts.cross_validation)]
    rows = []
    for name, scores in scored:
        if scores is not None:
            by_label = {_values(key): dice for key, dice in scores.by_label.items()}
            labels = (_dice(by_label.get(values)) for values in facts.labels.values())
            rows.append([name, "?" if scores.cases is None else str(scores.cases), _dice(scores.mean), *labels])
    if not rows:
        return
    yield "## Validation\n"
    yield "Dice by nnU-Net's final validation of each fold, before any postprocessing, on cases that the fold has not"
    yield "been trained on. Scores on other data can differ.\n"
    yield from _table(["", "cases", "mean", *facts.labels], rows)
    if any(fold.name == "all" for fold in facts.folds):
        yield "\nFold `all` is trained on all cases, so its scores are those of training cases."
    if facts.checkpoint != "checkpoint_final.pth":
        yield "\nnnU-Net validates the final weights, unless it was told to take the best ones. The weights in this"
        yield f"folder are those of `{facts.checkpoint}`."


def _not_recorded(facts: ModelFacts) -> Iterator[str]:
    unscored = [fold.name for fold in facts.folds if fold.scores is None]
    unknown = [
        *(["the number of training cases"] * (not facts.dataset.get("numTraining"))),
        *([f"the validation scores of fold {_listed(unscored)}"] * bool(unscored)),
        *(["the number of epochs"] * any(fold.epochs is None for fold in facts.folds)),
        *(["the version of PyTorch that trained it"] * any(fold.torch_version is None for fold in facts.folds)),
        "the versions of nnU-Net and nnunet-xattnres that trained it",
        "scores on other data than those of the training",
        "the population and the devices of the images",
        "any approval for clinical use",
    ]
    yield "## Not recorded\n"
    yield "The files of the training do not say:\n"
    yield from (f"- {item}" for item in unknown)


def _licence(facts: ModelFacts) -> Iterator[str]:
    yield "## Licence\n"
    yield "**Not chosen yet.** Before you share this model, choose a licence that the data allow, write it here, and"
    yield "fill in `license` at the top of this file."
    stated = facts.dataset.get("licence") or facts.dataset.get("license")
    if stated:
        yield f"The data set's `dataset.json` states for the data: {_one_line(stated)}."


def _citation(facts: ModelFacts) -> Iterator[str]:
    yield "## Citation\n"
    yield from (f"- {_CITATIONS[name]}" for name in _cited(facts))


def _cited(facts: ModelFacts) -> list[str]:
    """What is cited, nnU-Net first."""
    return ["nnU-Net", *(name for name, classes in _CITED_FOR.items() if classes & facts.classes)]


def _channels(facts: ModelFacts) -> str:
    return f"{'channels' if len(facts.channels) > 1 else 'channel'} {_listed(facts.channels)}"


def _epochs(folds: Sequence[Fold]) -> str:
    epochs = {fold.name: fold.epochs for fold in folds}
    if None in epochs.values():
        return "after an unknown number of epochs"
    if len(set(epochs.values())) == 1:
        return f"after {folds[0].epochs} epochs"
    return "after " + ", ".join(f"{number} (fold {name})" for name, number in epochs.items()) + " epochs"


def _dice(dice: float | None) -> str:
    """Four digits; a Dice that is not defined is said as such."""
    return "undefined" if dice is None or not math.isfinite(dice) else f"{dice:.4f}"


def _values(value: Any) -> tuple[int, ...]:
    """The label values of a label, a region, or nnU-Net's key for one of them.

    >>> _values(1), _values([1, 2]), _values("(1, 2)"), _values("3")
    ((1,), (1, 2), (1, 2), (3,))
    """
    return tuple(int(number) for number in re.findall(r"\d+", str(value)))


def _millions(network: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} M"


def _listed(items: Iterable[str]) -> str:
    """Items in words.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = [*items] or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def _one_line(value: Any) -> str:
    """A text of a user in one line, without characters that would end a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"
