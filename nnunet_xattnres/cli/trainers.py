"""xattnres trainers: print the folder for nnU-Net's environment variable nnUNet_extTrainer, or list all trainers.

Without options it prints the path alone:
  export nnUNet_extTrainer="$(xattnres trainers)"
Several folders are separated by a colon, on Windows by a semicolon, as in PATH.

With --list it prints the name of every trainer, its network, routing (skip connections and XAttnRes), recipe, and
whether it trains 2d and 3d configurations. With --plans it adds the number of parameters of the network for each
configuration that the trainer can train. Channels and labels come from the dataset.json in the folder of the plans.
Every trainer also exists in nnU-Net's lengths: append _1epoch, _5epochs, ... to the name.

examples:
  xattnres trainers --list
  xattnres trainers --list --plans $nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json -c 2d 3d_fullres
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..training import names
from ..utils.errors import UserError
from ..utils.paths import trainers_path
from ..utils.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="list all trainers")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="count parameters for this plans file")
    parser.add_argument("-c", "--configuration", nargs="+", metavar="C", help="configurations to count (default: all)")
    parser.add_argument("--classes", type=int, metavar="N", help="output channels (default: from dataset.json, or 2)")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.classes is not None and arguments.classes < 1:
        raise UserError(f"--classes must be at least 1, got {arguments.classes}")
    options = [option for option in ("plans", "configuration", "classes", "json") if getattr(arguments, option)]
    if not arguments.list:
        if options:
            raise UserError(f"--{options[0]} is an option of the list: add --list")
        print(trainers_path())
        return 0
    if arguments.plans is None and {"configuration", "classes"} & set(options):
        raise UserError("--configuration and --classes are options for a plans file: add --plans FILE")
    reasons: Counter[str] = Counter()
    rows = _rows(arguments, reasons)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    text = [[value if isinstance(value, str) else _millions(value) for value in row.values()] for row in rows]
    print(format_table([list(rows[0]), *text], left_aligned=5))
    print()
    for reason, count in reasons.items():
        print(f"{count} trainer{'s' * (count > 1)}: {reason}")
    print(_lengths())
    return 0


def _rows(arguments: argparse.Namespace, reasons: Counter[str]) -> list[dict]:
    """One row per trainer: its parts, and the number of parameters by configuration, None if it cannot be trained.

    `reasons` gets the reasons why trainers cannot train a configuration, and the number of these trainers.
    """
    counters = {} if arguments.plans is None else _counters(arguments, reasons)
    return [
        names.describe(name) | {configuration: count(name) for configuration, count in counters.items()}
        for name in names.trainer_names()
    ]


def _lengths() -> str:
    lengths = ", ".join(f"_{names.length_name(epochs)}" for epochs in names.EPOCHS)
    epochs = ", ".join(f"{recipe.epochs} ({recipe.label})" for recipe in names.RECIPES.values())
    return f"Every trainer also exists in nnU-Net's lengths: append {lengths}.\nWithout a length, epochs are {epochs}."


def _counters(arguments: argparse.Namespace, reasons: Counter[str]) -> dict[str, Callable[[str], int | None]]:
    """For every configuration, a function from a trainer's name to the number of parameters of its network."""
    import torch
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    from ..training.trainer_classes import trainer_class
    from ..utils.plans_file import count_input_channels, get_configuration, read_dataset_json, read_plans

    plans = read_plans(arguments.plans)
    dataset = read_dataset_json(arguments.plans)
    labels = plans.get_label_manager(dataset) if dataset else None
    classes = arguments.classes or (labels.num_segmentation_heads if labels else 2)

    def counter(configuration_name: str) -> Callable[[str], int | None]:
        configuration = get_configuration(plans, configuration_name, arguments.plans)
        if dataset:
            channels = determine_num_input_channels(plans, configuration, dataset)
        else:
            channels = count_input_channels(plans)

        by_network: dict[tuple[str, str], int] = {}  # recipes do not change the network

        def count(name: str) -> int | None:
            cls, parts = trainer_class(name), names.parse(name)
            try:
                cls.check_configuration(configuration)
                if labels and not arguments.classes:
                    cls.check_labels(labels)
            except ValueError as error:
                reasons[f"{configuration_name}: {str(error).removeprefix(name).removeprefix(':').strip()}"] += 1
                return None
            key = parts.network, parts.routing
            if key not in by_network:
                with torch.device("meta"):  # allocates no memory
                    network = cls.build_network_architecture(plans, configuration, channels, classes)
                by_network[key] = sum(p.numel() for p in network.parameters())
            return by_network[key]

        return count

    return {name: counter(name) for name in arguments.configuration or plans.plans["configurations"]}


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} M"
