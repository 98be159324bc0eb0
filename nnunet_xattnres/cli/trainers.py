"""xattnres trainers: the folder for nnU-Net's environment variable nnUNet_extTrainer, or a list of all trainers.

The path stands alone on standard output:
  export nnUNet_extTrainer="$(xattnres trainers)"
Several folders may be joined by a colon, as in PATH.

With --list: every trainer's name, network, routing, recipe, 2d or 3d, and, for the plans of a data set, the
parameters of its network, where it can train that data set. Each also comes in nnU-Net's lengths: append _1epoch,
_5epochs, ... to the name. Channels and labels are those of the dataset.json that nnU-Net keeps beside the plans.

examples:
  xattnres trainers --list
  xattnres trainers --list --plans $nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetPlans.json -c 2d 3d_fullres
"""

import argparse
import json
from pathlib import Path

from ..utils.errors import UserError
from ..utils.paths import trainers_path
from ..utils.tables import format_table

_LENGTHS = """\
Each also as _1epoch, _5epochs, ... in nnU-Net's own lengths; without one, a training has nnU-Net's 1000 epochs, in the
paper's recipes 300 (multi-class) and 200 (binary)."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="list the trainers instead")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="count parameters for these plans")
    parser.add_argument("-c", "--configuration", nargs="+", metavar="C", help="of the plans (default: all of them)")
    parser.add_argument("--classes", type=int, metavar="N", help="output channels (default: from dataset.json, or 2)")
    parser.add_argument("--json", action="store_true", help="the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.classes is not None and arguments.classes < 1:
        raise UserError(f"--classes must be at least 1, got {arguments.classes}")
    given = [option for option in ("plans", "configuration", "classes", "json") if getattr(arguments, option)]
    if not arguments.list:
        if given:
            raise UserError(f"--{given[0]} belongs to the list: add --list")
        print(trainers_path())
        return 0
    if arguments.plans is None and {"configuration", "classes"} & set(given):
        raise UserError("--configuration and --classes are of a plans file: add --plans FILE")
    rows = _rows(arguments)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    text = [[value if isinstance(value, str) else _millions(value) for value in row.values()] for row in rows]
    print(format_table([list(rows[0]), *text], left_aligned=5))
    print(f"\n{_LENGTHS}")
    return 0


def _rows(arguments: argparse.Namespace) -> list[dict]:
    """One entry a trainer; parameters by configuration, None where it cannot train that."""
    from ..training.catalogue import catalogue

    counted = _counters(arguments)
    ordered = sorted(catalogue().items(), key=lambda item: item[1].network_name != "planned")  # that one first
    return [
        {
            "name": name,
            "network": cls.network_name,
            "routing": cls.routing,
            "recipe": cls.recipe,
            "dims": ", ".join(f"{dim}d" for dim in cls.dims),
        }
        | {configuration: count(cls) for configuration, count in counted.items()}
        for name, cls in ordered
    ]


def _counters(arguments: argparse.Namespace) -> dict:
    """For every configuration asked for, a function from a trainer class to the parameters of its network."""
    if arguments.plans is None:
        return {}
    import torch
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    from ..utils.plans_file import count_input_channels, get_configuration, read_dataset_json, read_plans

    plans = read_plans(arguments.plans)
    dataset = read_dataset_json(arguments.plans)
    labels = plans.get_label_manager(dataset) if dataset else None
    classes = arguments.classes or (labels.num_segmentation_heads if labels else 2)

    def counter(name: str):
        configuration = get_configuration(plans, name, arguments.plans)
        if dataset:
            channels = determine_num_input_channels(plans, configuration, dataset)
        else:
            channels = count_input_channels(plans)

        def count(cls) -> int | None:
            try:
                cls.check_configuration(configuration)
                if labels and not arguments.classes:
                    cls.check_labels(labels)
            except ValueError:
                return None
            try:
                with torch.device("meta"):  # shapes alone
                    network = cls.build_network_architecture(plans, configuration, channels, classes)
            except ValueError as error:  # plans of another network
                raise UserError(str(error)) from None
            return sum(p.numel() for p in network.parameters())

        return count

    return {name: counter(name) for name in arguments.configuration or plans.plans["configurations"]}


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} M"
