"""The grammar of trainer names: `nnUNetTrainer` + network + routing [+ `_`recipe] [+ `_`length].

nnU-Net names the results folder of a training by its trainer, so every combination has a trainer of its own. This file
defines the combinations; `trainer_classes.py` creates a class when its name is looked up. PyTorch and nnU-Net are not
imported here, so that commands can list the trainers quickly.

To add a network, add it to `NETWORKS` and write its trainer class in a module of its own, as in `planned.py`. To add a
routing, add it to `ROUTINGS`. To add a recipe, add it to `RECIPES` and write a class of its name in `recipes.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

PREFIX = "nnUNetTrainer"


@dataclass(frozen=True)
class Routing:
    """A named choice of connections between the stages of a network.

    Args:
        label: short description, for tables.
        options: options of `nnunet_xattnres.networks.connections.Connections` that differ from its defaults.
        paper: the table or equation of the XAttnRes paper (arXiv 2604.03297) with this routing, or that there is none.
    """

    label: str
    options: Mapping[str, bool | str] = field(default_factory=dict)
    paper: str = ""


@dataclass(frozen=True)
class Network:
    """A network that can be trained.

    Args:
        label: short name, for tables.
        description: one line, for the documentation.
        trainer: name of its trainer class, which is written out in full; the other trainers derive from it.
        module: the module of `nnunet_xattnres.training` with that class.
        dims: numbers of spatial axes that it can process.
        options: the options of `Connections` that a routing passes to this network.
        routings: names of its routings, None for all of them.
        note: the reason why the network does not have all routings.
    """

    label: str
    description: str
    trainer: str
    module: str
    dims: tuple[int, ...]
    options: tuple[str, ...] = ("skip", "encoder", "decoder", "decoder_input", "init", "gate")
    routings: tuple[str, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """A choice of optimiser, schedule, loss and number of epochs.

    Args:
        label: short name, for tables.
        description: one line, for the documentation.
        epochs: number of epochs of a trainer without a length in its name.
        dims: numbers of spatial axes that it can train.
        networks: the networks that it can train, None for all of them.
        needs_layers: whether it trains networks with XAttnRes only.
    """

    label: str
    description: str
    epochs: int
    dims: tuple[int, ...] = (2, 3)
    networks: tuple[str, ...] | None = None
    needs_layers: bool = False

    def trains(self, network: str, routing: str) -> bool:
        """Whether there are trainers with this network, routing and recipe."""
        options = ROUTINGS[routing].options
        stages = [part for part in ("encoder", "decoder") if part in NETWORKS[network].options]
        has_layers = any(options.get(part, True) for part in stages)
        return (self.networks is None or network in self.networks) and (has_layers or not self.needs_layers)


NETWORKS: dict[str, Network] = {
    "": Network(
        "planned",
        "the network that nnU-Net planned, PlainConvUNet or ResidualEncoderUNet (all ResEnc presets)",
        trainer="nnUNetTrainerXAttnRes",
        module="planned",
        dims=(2, 3),
    ),
    "PaperUNet": Network(
        "paper's U-Net",
        "the U-Net of the XAttnRes paper, with 18, 36, 72, 144 and 144 channels",
        trainer="nnUNetTrainerPaperUNetXAttnRes",
        module="paper_unet",
        dims=(2,),
    ),
    "EMCAD": Network(
        "EMCAD",
        "EMCAD (arXiv 2405.06880), a PVTv2-B2 encoder and a decoder of multi-scale convolutional attention",
        trainer="nnUNetTrainerEMCADXAttnRes",
        module="emcad",
        dims=(2,),
        options=("skip", "decoder", "init", "gate"),
        routings=("", "NoSkip", "XAttnRes", "XAttnResReplace", "XAttnResGated"),
        note="The encoder is pretrained and has no XAttnRes; EMCAD's attention gates and additions are the skip "
        "connections.",
    ),
    "CSAP": Network(
        "CSAP",
        "CSAP (arXiv 2604.05431), an MSCAN-T encoder and a decoder that propagates the attention of the deepest stage",
        trainer="nnUNetTrainerCSAP",
        module="csap",
        dims=(2,),
        options=("decoder", "init", "gate"),
        routings=("", "XAttnRes", "XAttnResGated"),
        note="The encoder is pretrained and has no XAttnRes; there are no skip connections that could be removed.",
    ),
    "CSAPPlanned": Network(
        "planned + CSAP (ours)",
        "the planned network, with the attention of its bottleneck propagated to the decoder stages, as in CSAP; ours",
        trainer="nnUNetTrainerCSAPPlanned",
        module="csap_planned",
        dims=(2, 3),
    ),
    "USEMA": Network(
        "USEMA",
        "USEMA (arXiv 2605.11131): the planned network with SEMA blocks behind every second stage of the encoder",
        trainer="nnUNetTrainerUSEMA",
        module="usema",
        dims=(2, 3),
    ),
    "USEMABot": Network(
        "USEMA, bottleneck",
        "the planned network with a SEMA block behind the deepest stage alone",
        trainer="nnUNetTrainerUSEMABot",
        module="usema",
        dims=(2, 3),
    ),
}
"""The networks, by their part of a trainer's name."""

_NO_XATTNRES = {"encoder": False, "decoder": False}

ROUTINGS: dict[str, Routing] = {
    "": Routing("skips", _NO_XATTNRES, "Table 3, baseline"),
    "NoSkip": Routing("no skips", _NO_XATTNRES | {"skip": False}, "Table 3, no skip; Table 4, None"),
    "XAttnRes": Routing("XAttnRes + skips (both)", {}, "Table 3, both; Table 4, Full; Table 5, Zero-init"),
    "XAttnResReplace": Routing("XAttnRes (replace)", {"skip": False}, "Table 3, replace"),
    # Table 4 is labelled "without skip connections", but its last row equals "both" of Table 3, and so does the first
    # row of Table 5. Therefore each routing of these tables exists with and without skip connections.
    "XAttnResEncoder": Routing("encoder + skips", {"decoder": False}, "Table 4"),
    "XAttnResEncoderNoSkip": Routing("encoder", {"decoder": False, "skip": False}, "Table 4"),
    "XAttnResDecoder": Routing("decoder + skips", {"encoder": False}, "Table 4"),
    "XAttnResDecoderNoSkip": Routing("decoder", {"encoder": False, "skip": False}, "Table 4"),
    "XAttnResNormal": Routing("both, normal init", {"init": "normal"}, "Table 5, Random"),
    "XAttnResNormalNoSkip": Routing("replace, normal init", {"init": "normal", "skip": False}, "Table 5, Random"),
    "XAttnResKaiming": Routing("both, Kaiming init", {"init": "kaiming_uniform"}, "Table 5, Kaiming uniform"),
    "XAttnResKaimingNoSkip": Routing(
        "replace, Kaiming init", {"init": "kaiming_uniform", "skip": False}, "Table 5, Kaiming uniform"
    ),
    "XAttnResXavier": Routing("both, Xavier init", {"init": "xavier_uniform"}, "Table 5, Xavier uniform"),
    "XAttnResXavierNoSkip": Routing(
        "replace, Xavier init", {"init": "xavier_uniform", "skip": False}, "Table 5, Xavier uniform"
    ),
    "XAttnResUpsampled": Routing("both, x upsampled only", {"decoder_input": "upsampled"}, "Eq. 11, literally"),
    "XAttnResGated": Routing("both, gated (ours)", {"gate": True}, "not in the paper: ours"),
}
"""The routings, by their part of a trainer's name."""

RECIPES: dict[str, Recipe] = {
    "": Recipe("nnU-Net", "nnU-Net's: SGD with momentum, Dice + cross-entropy", epochs=1000),
    "PaperMulticlass": Recipe(
        "paper, multi-class",
        "the paper's for Synapse: AdamW, constant learning rate 1e-4, weight decay 1e-4, 0.3 cross-entropy + 0.7 Dice; "
        "labels, not regions",
        epochs=300,
    ),
    "PaperBinary": Recipe(
        "paper, binary",
        "the paper's for polyps and skin: the same optimiser, weighted BCE + IoU, every batch at scales 0.75, 1 and "
        "1.25, gradients clipped to ±0.5; one foreground label",
        epochs=200,
        dims=(2,),
    ),
    "LayersOnly": Recipe(
        "layers only (ours)",
        "nnU-Net's, but only the XAttnRes layers and the segmentation heads are trained, and all other weights stay: "
        "for a start from a trained stock network (`xattnres warmstart`); ours",
        epochs=1000,
        networks=("",),
        needs_layers=True,
    ),
}
"""The recipes, by their part of a trainer's name; the empty one is nnU-Net's own training."""

EPOCHS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)
"""The lengths, the same as in nnunetv2.training.nnUNetTrainer.variants.training_length."""


def length_name(epochs: int) -> str:
    """The part of a trainer's name for a number of epochs, as nnU-Net spells it.

    Example:
        >>> length_name(1), length_name(50)
        ('1epoch', '50epochs')
    """
    return "1epoch" if epochs == 1 else f"{epochs}epochs"


@dataclass(frozen=True)
class TrainerName:
    """The parts of a trainer's name; `str()` gives the name.

    Args:
        network: key of `NETWORKS`.
        routing: key of `ROUTINGS`.
        recipe: key of `RECIPES`.
        epochs: number of epochs in the name, None if the name has no length.
    """

    network: str = ""
    routing: str = ""
    recipe: str = ""
    epochs: int | None = None

    def __str__(self) -> str:
        length = "" if self.epochs is None else length_name(self.epochs)
        return "_".join(filter(None, (PREFIX + self.network + self.routing, self.recipe, length)))

    @property
    def dims(self) -> tuple[int, ...]:
        """The numbers of spatial axes that the trainer can train."""
        return tuple(dim for dim in NETWORKS[self.network].dims if dim in RECIPES[self.recipe].dims)

    @property
    def network_options(self) -> dict[str, bool | str]:
        """The keyword arguments that the routing passes to the network."""
        options = ROUTINGS[self.routing].options
        return {name: value for name, value in options.items() if name in NETWORKS[self.network].options}


@cache
def _base_names() -> dict[str, TrainerName]:
    """The parts of every name without a length, by name."""
    parts = [
        TrainerName(network, routing, recipe)
        for network, entry in NETWORKS.items()
        for routing in (ROUTINGS if entry.routings is None else entry.routings)
        for recipe, properties in RECIPES.items()
        if properties.trains(network, routing)
    ]
    return {str(name): name for name in parts if str(name) != PREFIX}  # the prefix alone is nnU-Net's trainer


_EPOCHS = {length_name(epochs): epochs for epochs in EPOCHS}


def parse(name: str) -> TrainerName:
    """The parts of a trainer's name.

    Raises:
        ValueError: if this package has no trainer of that name.

    Example:
        >>> parse("nnUNetTrainerEMCADXAttnRes_PaperBinary_50epochs")
        TrainerName(network='EMCAD', routing='XAttnRes', recipe='PaperBinary', epochs=50)
        >>> parse("nnUNetTrainerXAttnRes").dims
        (2, 3)
    """
    base, _, length = name.rpartition("_")
    if length in _EPOCHS and base in _base_names():
        return replace(_base_names()[base], epochs=_EPOCHS[length])
    if name in _base_names():
        return _base_names()[name]
    raise ValueError(f"{name} is not a trainer of nnunet-xattnres: see xattnres trainers --list")


def trainer_names(lengths: bool = False) -> list[str]:
    """All trainer names, the planned network first; with `lengths`, also those with a length."""
    names = []
    for base, parts in _base_names().items():
        names.append(base)
        if lengths:
            names += [str(replace(parts, epochs=epochs)) for epochs in EPOCHS]
    return names


def describe(name: str) -> dict[str, str]:
    """The row of a trainer in `xattnres trainers --list`: name, network, routing, recipe, dims."""
    parts = parse(name)
    return {
        "name": name,
        "network": NETWORKS[parts.network].label,
        "routing": ROUTINGS[parts.routing].label,
        "recipe": RECIPES[parts.recipe].label,
        "dims": _axes(parts.dims),
    }


def grammar_tables() -> dict[str, list[list[str]]]:
    """The grammar as tables, the header first, by title: networks, routings, recipes and lengths."""
    return {
        "network": [
            ["network", "description", "dims", "routings"],
            *(
                [
                    name,
                    entry.description,
                    _axes(entry.dims),
                    "all" if entry.routings is None else _names(entry.routings),
                ]
                for name, entry in NETWORKS.items()
            ),
        ],
        "routing": [
            ["routing", "skip connections", "XAttnRes in", "pseudo-query starts at", "paper"],
            *([name, *_connections(routing.options), routing.paper] for name, routing in ROUTINGS.items()),
        ],
        "recipe": [
            ["recipe", "description", "epochs", "dims"],
            *([name, r.description, str(r.epochs), _axes(r.dims)] for name, r in RECIPES.items()),
        ],
        "length": [["length", "epochs"], *([name, str(epochs)] for name, epochs in _EPOCHS.items())],
    }


def markdown() -> str:
    """The grammar as Markdown: a table for each part of a name, and the possible combinations."""
    parts = []
    for title, (header, *rows) in grammar_tables().items():
        parts.append(f"## {title.capitalize()}\n")
        cells = [[f"`{name}`" if name else "*(none)*", *rest] for name, *rest in rows]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]) + "\n")
        parts += [f"{entry.label}: {entry.note}\n" for entry in NETWORKS.values() if entry.note and title == "network"]
    parts.append(
        "Every routing of a network can be combined with every recipe and every length, except that `LayersOnly` needs "
        "the planned network and a routing with XAttnRes. This gives "
        f"{len(trainer_names())} trainers, each also in {len(EPOCHS)} lengths. `{PREFIX}` alone or with a length only "
        "is nnU-Net's own trainer.\n"
    )
    return "\n".join(parts)


def _axes(dims: Sequence[int]) -> str:
    return ", ".join(f"{dim}d" for dim in dims)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" if name else "*(none)*" for name in names)


def _connections(options: Mapping[str, bool | str]) -> list[str]:
    """Cells of a routing: skip connections, the stages with XAttnRes, the start of the pseudo-query."""
    skip = "yes" if options.get("skip", True) else "no"
    if options.get("decoder_input") == "upsampled":
        skip = "yes, concatenated after the layer"
    stages = [part for part in ("encoder", "decoder") if options.get(part, True)]
    init = {
        "zero": "zero",
        "normal": "normal",
        "kaiming_uniform": "Kaiming uniform",
        "xavier_uniform": "Xavier uniform",
    }
    gated = ", each with a gate that starts at 0" if options.get("gate") else ""
    return [
        skip,
        " and ".join(stages) + gated if stages else "nowhere",
        init[str(options.get("init", "zero"))] if stages else "",
    ]
