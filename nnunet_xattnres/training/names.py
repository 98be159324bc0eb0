"""Trainer classes by the parts of their names: network, routing, recipe, length."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .lengths import with_lengths
from .recipes import RECIPES


@dataclass(frozen=True)
class Routing:
    """How the stages are connected: `text` for people, `options` for the network (see `Connections`)."""

    text: str
    options: Mapping = field(default_factory=dict)


_ALONE = {"encoder": False, "decoder": False}

ROUTINGS: dict[str, Routing] = {
    # Table 3
    "": Routing("skips", _ALONE),
    "NoSkip": Routing("no skips", _ALONE | {"skip": False}),
    "XAttnRes": Routing("XAttnRes + skips (both)"),
    "XAttnResReplace": Routing("XAttnRes (replace)", {"skip": False}),
    # Table 4, which the paper labels "without skip connections" and whose last row is "both" of Table 3
    "XAttnResEncoder": Routing("encoder + skips", {"decoder": False}),
    "XAttnResEncoderNoSkip": Routing("encoder", {"decoder": False, "skip": False}),
    "XAttnResDecoder": Routing("decoder + skips", {"encoder": False}),
    "XAttnResDecoderNoSkip": Routing("decoder", {"encoder": False, "skip": False}),
    # Table 5; zero is where all others start
    "XAttnResNormal": Routing("both, normal init", {"init": "normal"}),
    "XAttnResNormalNoSkip": Routing("replace, normal init", {"init": "normal", "skip": False}),
    "XAttnResKaiming": Routing("both, Kaiming init", {"init": "kaiming_uniform"}),
    "XAttnResKaimingNoSkip": Routing("replace, Kaiming init", {"init": "kaiming_uniform", "skip": False}),
    "XAttnResXavier": Routing("both, Xavier init", {"init": "xavier_uniform"}),
    "XAttnResXavierNoSkip": Routing("replace, Xavier init", {"init": "xavier_uniform", "skip": False}),
    # Eq. 11 to the letter: the skip joins after the layer
    "XAttnResUpsampled": Routing("both, x upsampled only", {"decoder_input": "upsampled"}),
}
"""The routings of the paper, by their part of a trainer's name."""


def variants(prefix: str, trainer: type, routings: Mapping[str, Routing]) -> dict[str, type]:
    """`<prefix><routing>[_<recipe>][_<length>]`: a class of every routing, recipe and length, by name.

    Args:
        prefix: what the names begin with, `nnUNetTrainer` and the network.
        trainer: the class of the routing "XAttnRes"; the others are made its subclasses.
        routings: routings by their part of the name.
    """
    classes = {}
    for part, routing in routings.items():
        name = prefix + part
        base = trainer
        if name != trainer.__name__:
            base = _derive(name, (trainer,), network_options=dict(routing.options), routing=routing.text)
        if name != "nnUNetTrainer":  # nnU-Net's own
            classes |= with_lengths(base)
        for suffix, recipe in RECIPES.items():
            classes |= with_lengths(_derive(f"{name}_{suffix}", (recipe, base)))
    return classes


def _derive(name: str, bases: tuple[type, ...], **attributes) -> type:
    owner = bases[-1]
    what = ", ".join(filter(None, (attributes.get("routing"), *(base.recipe for base in bases[:-1]))))
    return type(name, bases, {"__module__": owner.__module__, "__doc__": f"{owner.__name__}: {what}."} | attributes)
