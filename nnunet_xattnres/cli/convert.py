"""xattnres convert: convert a downloaded data set, or any folder of images and masks, to an nnU-Net raw dataset.

The dataset is written to $nnUNet_raw/Dataset<ID>_<NAME>. Training and validation cases go to imagesTr and labelsTr,
test cases to imagesTs and labelsTs. The paper's data sets get the published split. If there are validation cases,
splits_final.json holds training and validation cases as one fold, and nnU-Net uses it when it plans. manifest.json
records the source files, checksums, split and changes of every case, and preview.png shows some cases with the outlines
of their masks.

The source is never changed. The dataset appears under its name when it is complete. If the conversion is interrupted,
run the same command again: it continues with the cases that are not converted yet.

All problems of the source are listed together as FILE: CODE: TEXT, the exit code is 2, and nothing is written. With
--skip-bad, the cases that can be used are converted, and the others are recorded in the manifest.

`xattnres convert LAYOUT --help` describes the expected files and the options of a layout.

examples:
  xattnres convert synapse RawData.zip --dataset-id 501
  xattnres convert clinicdb CVC-ClinicDB --dataset-id 503
  xattnres convert isic2017 ISIC-2017_*.zip --dataset-id 504 --size 352
  xattnres convert folder Nuclei_DSB2018 --dataset-id 505 --name Nuclei --foreground nucleus
  xattnres convert folder scans --dataset-id 506 --masks '*_mask.*' --labels 1=cell 2=nucleus --split split.csv
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..convert.layouts import LAYOUTS
from ..utils.errors import UserError
from ..utils.workers import default_workers
from .arguments import positive_float, positive_int

if TYPE_CHECKING:
    from ..convert.case import SourceCase
    from ..convert.destination import Target
    from ..convert.sources import SourceFile

_NOT_SETTINGS = {"command", "run", "layout", "workers", "overwrite", "dry_run", "dataset_id"}
"""Arguments that do not change the content of the dataset."""


def configure(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(
        dest="layout", required=True, metavar="LAYOUT", title="layouts", description="the kind of the source:"
    )
    for name, layout in LAYOUTS.items():
        command = subparsers.add_parser(
            name, help=layout.summary, description=layout.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        _add_common_options(command)
        if layout.has_images:
            _add_image_options(command)
        layout.configure(command)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, nargs="+", metavar="SOURCE", help="folders, or zip archives as they are downloaded"
    )
    parser.add_argument(
        "--dataset-id", type=positive_int, required=True, metavar="ID", help="number of the nnU-Net dataset, 1 to 999"
    )
    parser.add_argument("--name", help="name of the nnU-Net dataset (default: the name of the data set, or Images)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of the same number and name")
    parser.add_argument(
        "--skip-bad", action="store_true", help="skip what cannot be used, and record it in the manifest"
    )
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print which image has which mask, read and check everything, but write nothing",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=positive_int, default=default_workers(), metavar="N",
        help="number of processes (default: %(default)s)",
    )  # fmt: skip


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=positive_int, nargs="+", metavar="PIXELS",
        help="resize images and masks to a square with this side, or to this height and width (default: keep the size)",
    )  # fmt: skip
    parser.add_argument(
        "--resize-masks", action="store_true",
        help="resize masks that differ in size from their image (nearest neighbour), instead of reporting them",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=positive_float, metavar="VALUE",
        help="mask values of at least this are foreground, such as 0.5 for probability maps "
        "(default: 1 for 0/1 masks, 128 for 0/255 masks)",
    )  # fmt: skip
    parser.add_argument(
        "--palette", choices=["indices", "grey"],
        help="read all masks that have a palette, or less than 8 bits, by the stored indices or by the grey values "
        "that they show (default: indices, unless the palettes of all masks are grey ramps)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from ..convert import dataset
    from ..convert.destination import find_target
    from ..convert.plan import describe_split
    from ..convert.sources import scan

    if getattr(arguments, "size", None):
        from ..convert.memory import check_size

        arguments.size = _height_and_width(arguments.size)
        check_size(arguments.size, arguments.workers)
    if arguments.name is not None:
        arguments.name = arguments.name.removeprefix(f"Dataset{arguments.dataset_id:03d}_")
    arguments.source = [source.resolve() for source in arguments.source]
    files, problems = scan(arguments.source)
    plan = LAYOUTS[arguments.layout].make_plan(files, problems, arguments)
    plan.name = plan.name if arguments.name is None else arguments.name
    target = find_target(arguments.dataset_id, plan.name)
    if any(source.is_relative_to(target.folder) for source in arguments.source):
        raise UserError(f"the source is in {target.folder}, which would be replaced: choose another --dataset-id")
    if not plan.cases and not plan.problems:
        raise UserError("the source has no cases")
    if arguments.dry_run:
        _print_cases(plan.cases)
        kept, problems = dataset.check(plan, target, arguments.workers, arguments.skip_bad, arguments.overwrite)
        print(f"{len(kept)} cases of {plan.title} can be converted to {target.folder}")
        print(f"  split: {plan.split}: {describe_split(kept)}")
        for note in plan.notes:
            print(f"  {note}")
        for problem in problems:
            _print_problem(problem.file, problem.code, problem.text)
        return 0
    options = {name: value for name, value in vars(arguments).items() if name not in _NOT_SETTINGS}
    settings = json.loads(json.dumps({"layout": arguments.layout, **options}, default=str))
    try:
        manifest = dataset.convert(plan, target, settings, arguments.workers, arguments.skip_bad, arguments.overwrite)
    except (KeyboardInterrupt, SystemExit):
        print(f"\nstopped; run the same command again to continue from {target.working_folder}", file=sys.stderr)
        raise
    _print_summary(manifest, target)
    return 0


def _print_cases(cases: Sequence["SourceCase"]) -> None:
    """Print which image has which mask."""
    from ..utils.tables import format_table

    def title(files: Sequence["SourceFile"]) -> str:
        return f"{files[0].name} ... ({len(files)} files)" if len(files) > 1 else files[0].name if files else "-"

    if not cases:
        return
    rows = [[case.name, case.split, title(case.image), title(case.mask)] for case in cases]
    print(format_table([["case", "split", "image", "mask"], *rows], left_aligned=4))


def _print_summary(manifest: dict, target: "Target") -> None:
    continued = f" ({manifest['continued']} of them by an interrupted run)" if manifest["continued"] else ""
    print(f"{manifest['dataset']}: {len(manifest['cases'])} cases{continued} in {target.folder}")
    print(f"  split: {manifest['split']}")
    for line in _summarize_changes(manifest["cases"]):
        print(f"  {line}")
    for note in manifest["notes"]:
        print(f"  {note}")
    for skipped in manifest["left_out"]:
        _print_problem(skipped["file"], skipped["code"], skipped["problem"])
    if target.splits and target.splits.parent.exists():
        print(f"  {target.splits.parent} belongs to an earlier dataset: plan and preprocess again")
    print(f"  look at {target.folder / 'preview.png'}, then: nnUNetv2_plan_and_preprocess -d {target.number}"
          " --verify_dataset_integrity")  # fmt: skip


def _summarize_changes(records: list[dict]) -> list[str]:
    """One line per kind of change, the most frequent first; numbers and what follows a colon make no other kind.

    >>> _summarize_changes([{"changes": ["resized from 9x9 to 4x4"]}, {"changes": ["resized from 8x8 to 4x4"]}])
    ['2 cases: for example resized from 9x9 to 4x4']
    """
    by_kind: dict[str, list[str]] = {}
    for change in (change for record in records for change in record["changes"]):
        kind = "".join(character for character in change.split(": ")[0] if not character.isdigit())
        by_kind.setdefault(kind, []).append(change)
    lines = []
    for changes in sorted(by_kind.values(), key=len, reverse=True):
        example = "for example " if len(set(changes)) > 1 else ""
        lines.append(f"{len(changes)} case{'s' * (len(changes) > 1)}: {example}{changes[0]}")
    return lines


def _print_problem(file: str, code: str, text: str) -> None:
    """Print a problem that --skip-bad allows."""
    from ..convert.problems import SOURCE

    print(f"{'warning' if file == SOURCE else 'skipped'}: {file}: {code}: {text}", file=sys.stderr)


def _height_and_width(values: list[int]) -> tuple[int, int]:
    if len(values) > 2:
        raise UserError(f"--size takes one or two numbers, got {len(values)}")
    return (values[0], values[-1])
