"""xattnres benchmark: train nnU-Net with several trainers on the same folds and test whether they differ.

Trains every combination of datasets, configurations, plans, trainers and folds with nnU-Net's own commands, so that all
results are in nnU-Net's folders. The first trainer is the baseline, with which the others are compared. Finished
trainings are never repeated, also those started by hand; interrupted ones continue from their last checkpoint.

  xattnres benchmark run       plan, preprocess and train what is not done, then write the report
  xattnres benchmark status    show which trainings are done or running, and the remaining time
  xattnres benchmark report    write the report of what is finished in nnUNet_results

The grid is saved in OUT/benchmark.json (OUT is xattnres_benchmark, or --out), so that status and report need no
options after a run.

examples:
  xattnres benchmark run -d 4 -tr nnUNetTrainer_50epochs nnUNetTrainerXAttnRes_50epochs
  xattnres benchmark run -d 4 27 -c 2d 3d_fullres -p nnUNetResEncUNetMPlans -tr nnUNetTrainer nnUNetTrainerXAttnRes
  xattnres benchmark run --grid benchmark.yaml --dry-run      print the remaining commands, run nothing
  xattnres benchmark status
  xattnres benchmark report -d 4 -tr nnUNetTrainer nnUNetTrainerXAttnRes --out report_of_old_trainings

benchmark.yaml (only the first two entries are required, the others have these defaults):
  datasets: [4, Dataset501_Nuclei]
  trainers: [nnUNetTrainer_50epochs, nnUNetTrainerXAttnRes_50epochs]
  configurations: [2d]
  plans: [nnUNetPlans]
  folds: [0, 1, 2, 3, 4]
  repeats: 1

exit codes: 0 success, 1 a command failed or a training is missing, 2 wrong arguments or input
"""

import argparse
from pathlib import Path

from ..utils.workers import default_workers
from .arguments import positive_int
from .devices import add_device_option

_GRID_OPTIONS = ("datasets", "trainers", "configurations", "plans", "folds", "repeats")


def configure(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in {
        "run": "train what is not done, then write the report",
        "status": "show the progress and the remaining time",
        "report": "write the report of what is finished",
    }.items():
        action = subparsers.add_parser(
            name, help=summary, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        _add_grid(action)
        if name == "run":
            _add_run(action)
            _add_slurm(action)
        if name != "status":
            action.add_argument(
                "--workers", type=positive_int, default=default_workers(), metavar="N",
                help="processes for preprocessing, prediction and scores (default: %(default)s)",
            )  # fmt: skip


def _add_grid(parser: argparse.ArgumentParser) -> None:
    grid = parser.add_argument_group("grid")
    grid.add_argument("-d", dest="datasets", nargs="+", metavar="DATASET", help="dataset numbers or full names")
    grid.add_argument("-tr", dest="trainers", nargs="+", metavar="TRAINER", help="trainers; the first is the baseline")
    grid.add_argument("-c", dest="configurations", nargs="+", metavar="C", help="configurations (default: 2d)")
    grid.add_argument("-p", dest="plans", nargs="+", metavar="PLANS", help="plans (default: nnUNetPlans)")
    grid.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="folds (default: 0 1 2 3 4)")
    grid.add_argument(
        "--repeats", type=positive_int, metavar="N",
        help="trainings of each combination, which differ by chance because nnU-Net takes no seed; all but the first "
        "are in nnUNet_results/repeat_1, ... (default: 1)",
    )  # fmt: skip
    grid.add_argument("--grid", type=Path, metavar="FILE", help="YAML file with all of these; options override it")
    parser.add_argument(
        "--out", type=Path, default=Path("xattnres_benchmark"), metavar="FOLDER",
        help="folder for logs and the report (default: %(default)s)",
    )  # fmt: skip


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("execution")
    run.add_argument("--dry-run", action="store_true", help="print the remaining commands and exit")
    add_device_option(run, "cuda", "the device for training and prediction")
    run.add_argument("--gpus", nargs="+", metavar="GPU", help="GPUs, one training on each (default: all visible)")
    run.add_argument(
        "--num-gpus", type=positive_int, default=1, metavar="N", help="GPUs per training (DDP; default: 1)"
    )
    run.add_argument(
        "--jobs", type=positive_int, default=1, metavar="N", help="parallel trainings on a CPU (default: 1)"
    )
    run.add_argument(
        "--test", action="store_true", help="also predict imagesTs with the ensemble of folds, and score it"
    )


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    slurm = parser.add_argument_group("Slurm")
    slurm.add_argument("--slurm", action="store_true", help="submit jobs instead; the last one writes the report")
    slurm.add_argument("--partition", metavar="P", help="(default: the cluster's)")
    slurm.add_argument(
        "--time", type=_minutes, default=24 * 60, metavar="H:MM",
        help="time limit of a job; a training that reaches it is requeued and continues (default: 24:00)",
    )  # fmt: skip
    slurm.add_argument("--cpus", type=positive_int, metavar="N", help="CPUs per job (default: the cluster's)")
    slurm.add_argument("--memory", type=positive_int, metavar="GB", help="memory per job (default: the cluster's)")
    slurm.add_argument("--parallel", type=positive_int, default=64, metavar="N", help="parallel jobs (default: 64)")
    slurm.add_argument(
        "--slurm-option", type=_option, action="append", default=[], metavar="NAME=VALUE",
        help="another option of sbatch, such as account=lab; may be repeated",
    )  # fmt: skip
    slurm.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="shell line before a job; may be repeated"
    )


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    if not (hours.isdecimal() and minutes.isdecimal()) or not int(hours) * 60 + int(minutes):
        raise argparse.ArgumentTypeError(f"expected hours and minutes such as 24:00, got {text!r}")
    return int(hours) * 60 + int(minutes)


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as account=lab, got {text!r}")
    return name.lstrip("-"), value


def run(arguments: argparse.Namespace) -> int:
    from ..benchmark import commands
    from ..benchmark.local import make_slots
    from ..benchmark.slurm import SlurmOptions
    from ..benchmark.tasks import RunOptions

    a = arguments
    grid_options = {name: value for name in _GRID_OPTIONS if (value := getattr(a, name)) is not None}
    benchmark = commands.open_benchmark(grid_options, a.grid, a.out, to_run=a.action == "run")
    if a.action == "status":
        return commands.status(benchmark)
    if a.action == "report":
        return commands.report(benchmark, a.workers)
    options = RunOptions(a.device, a.num_gpus, a.workers)
    phases = commands.list_phases(benchmark.grid, a.test)
    if a.dry_run:
        return commands.print_commands(benchmark, phases, options)
    if a.slurm:
        slurm = SlurmOptions(
            time=a.time, partition=a.partition, memory_gb=a.memory, cpus=a.cpus, parallel=a.parallel,
            options=dict(a.slurm_option), setup=tuple(a.setup),
        )  # fmt: skip
        return commands.run_on_slurm(benchmark, phases, options, slurm)
    return commands.run(benchmark, phases, options, make_slots(a.device, a.gpus, a.num_gpus, a.jobs))
