"""Trainer classes by name through nnU-Net's own look-up, as its commands find them."""

import contextlib
import difflib
import io
from collections.abc import Iterable
from functools import cache

from ..utils.errors import UserError
from .names import trainer_names


def look_up(name: str) -> type:
    """The class that `nnUNetv2_train -tr NAME` uses; nnU-Net's messages about its search are not printed.

    Raises:
        Exception: of any type, as the search imports the trainer files; one file that cannot be imported, in any folder
            of nnUNet_extTrainer, breaks the search for every trainer.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with contextlib.redirect_stdout(io.StringIO()):
        return recursive_find_trainer_class_by_name(name)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, None if `name` is among them or none is similar."""
    near = difflib.get_close_matches(name, list(names), 1)
    return near[0] if near and near[0] != name else None


@cache
def find_trainer(name: str) -> type:
    """The trainer class of a name, for a command.

    Raises:
        UserError: if nnU-Net does not find it; the message suggests the most similar name of this package.
    """
    try:
        return look_up(name)
    except Exception as error:
        near = nearest(name, ["nnUNetTrainer", *trainer_names(lengths=True)])
        hint = f"did you mean {near}? " if near else ""
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        why = "" if reason.startswith("Could not find requested") else f" ({reason})"
        raise UserError(f"nnU-Net finds no trainer {name}{why}: {hint}see xattnres doctor --trainer {name}") from None
