"""nnU-Net's plans files and the dataset.json beside them, with errors for users who name a wrong one."""

from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from .errors import UserError
from .files import read_json


def read_plans(path: Path) -> PlansManager:
    """Read a plans file such as nnUNetPlans.json.

    Raises:
        UserError: if the file cannot be read, or is no plans file.
    """
    plans = read_json(path, "an nnU-Net plans file")
    if not isinstance(plans.get("configurations"), dict):
        raise UserError(f"{path} cannot be read as an nnU-Net plans file: it has no configurations")
    return PlansManager(plans)


def get_configuration(plans: PlansManager, name: str, path: Path) -> ConfigurationManager:
    """A configuration of a plans file by its name.

    Args:
        plans: the content of the plans file.
        name: the configuration, such as "2d".
        path: the plans file, for the error message.

    Raises:
        UserError: if the plans have no configuration of this name.
    """
    if name not in plans.plans["configurations"]:
        raise UserError(f"{path} has no configuration {name!r}, it has {', '.join(plans.plans['configurations'])}")
    return plans.get_configuration(name)


def count_input_channels(plans: PlansManager) -> int:
    """The number of image channels in the plans. A cascade's additional channels are not included."""
    return len(plans.plans.get("foreground_intensity_properties_per_channel") or [0])


def read_dataset_json(plans_path: Path) -> dict[str, Any] | None:
    """Read the dataset.json that nnU-Net stores beside a plans file; None if there is none.

    Raises:
        UserError: if it cannot be read.
    """
    path = plans_path.parent / "dataset.json"
    if not path.exists():
        return None
    dataset_json = read_json(path, "nnU-Net's dataset.json")
    if not isinstance(dataset_json.get("labels"), dict):
        raise UserError(f"{path} cannot be read as nnU-Net's dataset.json: it has no labels; fix it or move it away")
    return dataset_json
