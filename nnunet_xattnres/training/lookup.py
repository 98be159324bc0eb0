"""Trainers by name, through nnU-Net's own look-up."""

import contextlib
import difflib
import io
from collections.abc import Iterable
from functools import cache

from ..utils.errors import UserError


def look_up(name: str) -> type:
    """What `nnUNetv2_train -tr` finds, without nnU-Net's narration of its search.

    Raises:
        Exception: of any kind; one broken file in any folder of nnUNet_extTrainer breaks every search.
    """
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with contextlib.redirect_stdout(io.StringIO()):
        return recursive_find_trainer_class_by_name(name)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, if it is another."""
    near = difflib.get_close_matches(name, list(names), 1)
    return near[0] if near and near[0] != name else None


@cache
def find_trainer(name: str) -> type:
    """A trainer by nnU-Net's own look-up.

    Raises:
        UserError: if it finds none; the message has the nearest of this package's names.
    """
    from .catalogue import catalogue

    try:
        return look_up(name)
    except Exception as error:
        near = nearest(name, ["nnUNetTrainer", *catalogue(lengths=True)])
        hint = f"did you mean {near}? " if near else ""
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        why = "" if reason.startswith("Could not find requested") else f" ({reason})"  # which says no more
        raise UserError(f"nnU-Net finds no trainer {name}{why}: {hint}see xattnres doctor --trainer {name}") from None
