"""The trainer classes. A class is created when it is looked up by its name, not when its module is imported."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .names import EPOCHS, NETWORKS, RECIPES, ROUTINGS, TrainerName, length_name, parse, trainer_names

if TYPE_CHECKING:
    from .trainer import XAttnResTrainer


def trainer_class(name: str) -> type[XAttnResTrainer]:
    """The trainer class of a name; every call gives the same class.

    Its `__module__` is the module of its network, from which it can be imported, so it can be pickled.

    Raises:
        ValueError: if this package has no trainer of that name.
    """
    return _find_or_derive(parse(name))


@cache
def _find_or_derive(parts: TrainerName) -> type[XAttnResTrainer]:
    network = NETWORKS[parts.network]
    network_trainer: type[XAttnResTrainer] = vars(import_module(f".{network.module}", __package__))[network.trainer]
    if str(parts) == network.trainer:
        return network_trainer
    if parts.epochs is not None:
        base: Any = _find_or_derive(replace(parts, epochs=None))
        return _with_length(base, parts.epochs)
    if parts.recipe:
        base = _find_or_derive(replace(parts, recipe=""))
        recipe = vars(import_module(".recipes", __package__))[parts.recipe]
        return _derive(str(parts), (recipe, base), f"{base.__name__} with the recipe {RECIPES[parts.recipe].label}.")
    routing = ROUTINGS[parts.routing]
    attributes = {"network_options": parts.network_options, "routing": routing.label}
    return _derive(str(parts), (network_trainer,), f"{network.trainer} with the routing {routing.label}.", **attributes)


def with_lengths(trainer: type) -> dict[str, type]:
    """A trainer and its subclasses in all of nnU-Net's lengths, by class name, for a trainer file of your own.

    Example:
        >>> from nnunet_xattnres.training.planned import nnUNetTrainerXAttnRes
        >>> class nnUNetTrainerMine(nnUNetTrainerXAttnRes):
        ...     network_options = {"skip": False}
        >>> list(with_lengths(nnUNetTrainerMine))[:3]
        ['nnUNetTrainerMine', 'nnUNetTrainerMine_1epoch', 'nnUNetTrainerMine_5epochs']
    """
    lengths = [_with_length(trainer, epochs) for epochs in EPOCHS]
    return {cls.__name__: cls for cls in (trainer, *lengths)}


@cache
def _with_length(trainer: Any, epochs: int) -> Any:
    name = f"{trainer.__name__}_{length_name(epochs)}"
    return _derive(name, (trainer,), f"{trainer.__name__}, {epochs} epochs.", epochs=epochs)


def _derive(name: str, bases: tuple[type, ...], doc: str, **attributes: object) -> Any:
    return type(name, bases, {"__module__": bases[-1].__module__, "__doc__": doc, **attributes})


def module_attribute(module: str, name: str) -> type[XAttnResTrainer]:
    """A module's `__getattr__` for trainer classes.

    Args:
        module: `__name__` of the module. The module of a network has the trainers of that network, any other module has
            the trainers of all networks.
        name: the attribute that the module does not define.

    Raises:
        AttributeError: if it is not the name of such a trainer.
    """
    try:
        parts = parse(name)
    except ValueError:
        parts = None
    networks = _networks_of(module)
    if parts is None or parts.network not in networks:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return _find_or_derive(parts)


def module_names(module: str) -> list[str]:
    """The names without a length that `module_attribute` resolves, for a module's `__dir__`."""
    networks = _networks_of(module)
    return [name for name in trainer_names() if parse(name).network in networks]


def _networks_of(module: str) -> list[str]:
    own = [name for name, network in NETWORKS.items() if f"{__package__}.{network.module}" == module]
    return own or list(NETWORKS)
