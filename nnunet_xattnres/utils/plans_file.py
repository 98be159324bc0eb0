"""nnU-Net's plans files, as a user names them on the command line."""

import json
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from .errors import UserError


def read_plans(path: Path) -> PlansManager:
    """The plans in a file like nnUNetPlans.json.

    Raises:
        UserError: if it cannot be read as one.
    """
    try:
        plans = json.loads(path.read_text())
        plans["configurations"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} cannot be read as an nnU-Net plans file ({error!r}): pass one like nnUNetPlans.json"
        raise UserError(message) from None
    return PlansManager(plans)


def configuration_of(plans: PlansManager, name: str, path: Path) -> ConfigurationManager:
    """The configuration `name` of plans that were read from `path`.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in plans.plans["configurations"]:
        raise UserError(f"{path} has no configuration {name!r}, but {', '.join(plans.plans['configurations'])}")
    return plans.get_configuration(name)


def count_input_channels(plans: PlansManager) -> int:
    """Channels of the images, by the plans alone; a cascade's further ones are not among them."""
    return len(plans.plans.get("foreground_intensity_properties_per_channel") or [0])


def read_dataset(plans: Path) -> dict | None:
    """The dataset.json that nnU-Net keeps beside a plans file, None if there is none.

    Raises:
        UserError: if it cannot be read.
    """
    path = plans.parent / "dataset.json"
    if not path.exists():
        return None
    try:
        dataset = json.loads(path.read_text())
        dataset["labels"].keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as nnU-Net's dataset.json ({error!r}): mend it or move it away"
        ) from None
    return dataset
