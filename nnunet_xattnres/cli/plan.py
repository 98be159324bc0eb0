"""xattnres plan: make plans whose networks have XAttnRes, so that any of nnU-Net's trainers trains them.

From a plans file that nnU-Net has made, the command makes one with the network of a trainer of this package. Its name
is that of the plans with what follows nnUNetTrainer in the trainer's name, such as nnUNetPlansXAttnRes. The
preprocessed data are shared, so nothing is preprocessed again. A model that is trained with the new plans needs this
package where it is used, but no environment variable.

The networks take more memory than the planned ones. So batches, and then patches, become as much smaller as nnU-Net's
own estimate of the memory says; the table shows what changes. --measure takes the memory that training steps of both
networks really take on a GPU instead. --keep-sizes keeps them, as for a comparison with stock nnU-Net at equal sizes.

examples:
  xattnres plan -d 4
  nnUNetv2_train 4 2d 0 -p nnUNetPlansXAttnRes -tr nnUNetTrainerDA5

  xattnres plan -d 4 -p nnUNetResEncUNetMPlans -tr nnUNetTrainerXAttnResGated
  xattnres plan path/to/nnUNetPlans.json --dry-run
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import UserError
from ..utils.files import write_atomic
from ..utils.tables import format_size, format_table
from .devices import add_device_option, find_device

if TYPE_CHECKING:
    from ..planning.plans import Change, PeakMemory

_DEFAULT_PLANS = "nnUNetPlans"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="PLANS", help="the plans file, instead of -d and -p")
    parser.add_argument("-d", "--dataset", metavar="DATASET", help="the number or the name of the dataset")
    parser.add_argument(
        "-p", "--plans", metavar="NAME", help=f"the name of its plans, without .json (default: {_DEFAULT_PLANS})"
    )
    parser.add_argument(
        "-tr", "--trainer", default="nnUNetTrainerXAttnRes", metavar="TRAINER",
        help="the trainer whose network the plans get, without recipe and length (default: %(default)s); see xattnres "
        "trainers --list",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="the name of the new plans, without .json")
    parser.add_argument(
        "--measure", action="store_true", help="measure the memory on a GPU: some minutes for each configuration"
    )
    add_device_option(parser, "cuda", "the GPU of --measure", numbered=True)
    parser.add_argument(
        "--keep-sizes", action="store_true", help="keep patch and batch sizes, and take more memory than planned"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other plans of the same name")
    parser.add_argument("--dry-run", action="store_true", help="show the changes, write nothing")


def run(arguments: argparse.Namespace) -> int:
    path = _find_plans(arguments)

    from ..planning.plans import default_plans_name, make_plans, network_trainer
    from ..utils.plans_file import count_input_channels, read_dataset_json, read_plans

    parts, trainer = network_trainer(arguments.trainer)
    plans = read_plans(path)
    dataset = read_dataset_json(path)
    if dataset is None:
        raise UserError(f"{path.parent} has no dataset.json, which nnU-Net writes beside its plans: name those plans")
    name = arguments.name or default_plans_name(path.stem, parts)
    if not name or name != Path(name).name or name.endswith(".json"):
        raise UserError(f"--name must be the name of plans, without a folder and without .json, got {name!r}")
    target = path.with_name(f"{name}.json")
    if target == path:
        raise UserError(f"--name {name} is the name of the plans that are read: choose another name")
    channels, classes = count_input_channels(plans), plans.get_label_manager(dataset).num_segmentation_heads
    peak_memory = _measure_on(arguments.device, channels, classes) if arguments.measure else None
    new_plans, changes = make_plans(plans.plans, trainer, name, channels, classes, arguments.keep_sizes, peak_memory)
    text = json.dumps(new_plans, indent=4, sort_keys=False)
    print(_format_changes(changes, "measured" if arguments.measure else "estimated"))
    if arguments.dry_run:
        print(f"\nnot written: {target}")
        return 0
    _refuse_other_plans(target, new_plans, arguments.overwrite)
    write_atomic(target, text)
    configuration = changes[0].configuration
    print(f"\nwritten: {target}\ntrain with: nnUNetv2_train {_dataset(plans.plans)} {configuration} 0 -p {name}")
    return 0


def _find_plans(arguments: argparse.Namespace) -> Path:
    """The plans file that the arguments name."""
    if (arguments.file is None) == (arguments.dataset is None):
        raise UserError("expected a plans file or -d DATASET, and not both: see xattnres plan --help")
    if arguments.file is not None:
        if arguments.plans is not None:
            raise UserError("-p is the name of the plans of -d DATASET: leave it out, or the plans file")
        return arguments.file
    from ..benchmark.folders import NnUNetFolders, find_dataset

    folders = NnUNetFolders.from_environment()
    folder = folders.preprocessed / find_dataset(arguments.dataset, folders)
    path = folder / f"{arguments.plans or _DEFAULT_PLANS}.json"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in folder.glob("*Plans*.json"))) or "no plans"
        raise UserError(
            f"{path} does not exist, {folder} has {found}: name others with -p, or plan with nnUNetv2_plan_experiment"
        )
    return path


def _measure_on(name: str, channels: int, classes: int) -> "PeakMemory":
    """The function that measures memory on a device."""
    from ..planning.measure import measure_on

    device = find_device(name, "leave out --measure")
    if device.type != "cuda":
        raise UserError(f"--measure needs a CUDA device, got --device {name}")
    return measure_on(device, channels, classes, print)


def _refuse_other_plans(target: Path, new_plans: dict[str, Any], overwrite: bool) -> None:
    """Raise an error instead of replacing plans that are not those to be written."""
    if overwrite or not target.exists():
        return
    try:
        same = json.loads(target.read_bytes()) == json.loads(json.dumps(new_plans))
    except ValueError:
        same = False
    if not same:
        raise UserError(f"{target} exists and is different: choose another --name, or replace it with --overwrite")


def _dataset(plans: dict[str, Any]) -> str:
    return plans.get("dataset_name", "DATASET")


def _format_changes(changes: "list[Change]", how: str) -> str:
    head = ["configuration", "patch size", "batch size", "parameters", f"{how} memory"]
    rows = [
        [
            change.configuration,
            _arrow(*map(format_size, change.patch_size)),
            _arrow(*map(str, change.batch_size)),
            _arrow(*(f"{count / 1e6:.2f} M" for count in change.parameters)),
            f"{change.memory_ratio:.2f} x planned",
        ]
        for change in changes
    ]
    return format_table([head, *rows])


def _arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"
