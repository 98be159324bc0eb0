"""xattnres convert: a downloaded data set, or any folder of images and masks, as an nnU-Net raw dataset.

The dataset goes to $nnUNet_raw/Dataset<ID>_<NAME> with the published split of the paper: training and validation cases
in imagesTr, their fold in splits_final.json (nnU-Net takes it over when it plans), test cases in imagesTs with their
labels in labelsTs. manifest.json says where every case came from and what was changed, preview.png shows some.

The source is only read. A killed conversion leaves nothing under the dataset's name, and the same command goes on
where it was. Everything that is wrong with the source is listed at once, with exit code 2, and nothing is written;
--skip-bad leaves out what cannot be used and records it in the manifest.

examples:
  xattnres convert synapse RawData.zip --dataset-id 501
  xattnres convert clinicdb CVC-ClinicDB --dataset-id 503
  xattnres convert isic2017 ISIC-2017_*.zip --dataset-id 504 --size 352
  xattnres convert folder Nuclei_DSB2018 --dataset-id 505 --name Nuclei --foreground nucleus
  xattnres convert folder scans --dataset-id 506 --mask-suffix _mask --labels 1=cell 2=nucleus --split split.csv
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from ..convert.layouts import folder, isic2017, polyps, synapse
from ..utils.errors import UserError
from ..utils.workers import default_workers
from .arguments import positive_int

_LAYOUTS = {
    "synapse": synapse, "colondb": polyps.COLONDB, "clinicdb": polyps.CLINICDB, "isic2017": isic2017, "folder": folder,
}  # fmt: skip
_SUMMARIES = {
    "synapse": "Synapse/BTCV: img0001.nii.gz and label0001.nii.gz, or TransUNet's npz and h5",
    "colondb": "CVC-ColonDB: images/1.png and masks/1.png",
    "clinicdb": "CVC-ClinicDB: Original/1.tif and Ground Truth/1.tif, or images and masks",
    "isic2017": "ISIC 2017, part 1: the official folders or zip archives",
    "folder": "images and masks of your own: pictures, or NIfTI volumes",
}
_NOT_SETTINGS = {"command", "run", "layout", "workers", "overwrite", "dry_run", "dataset_id"}


def configure(parser: argparse.ArgumentParser) -> None:
    layouts = parser.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    for name, layout in _LAYOUTS.items():
        command = layouts.add_parser(name, help=_SUMMARIES[name], description=_SUMMARIES[name])
        _common(command)
        if name != "synapse":
            _pictures(command)
        layout.configure(command)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="+", metavar="SOURCE", help="folders, or zip archives as downloaded")
    parser.add_argument(
        "--dataset-id", type=positive_int, required=True, metavar="ID", help="number of the nnU-Net dataset"
    )
    parser.add_argument("--name", help="name of the nnU-Net dataset (default: the data set's, or Images)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of the same number and name")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what cannot be used, and record it")
    parser.add_argument("--dry-run", action="store_true", help="read and check everything, write nothing")
    parser.add_argument(
        "--workers", type=positive_int, default=default_workers(), metavar="N", help="processes (default: %(default)s)"
    )


def _pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=positive_int, nargs="+", metavar="PIXELS",
        help="resize images and masks: one side of a square, or height and width (default: full resolution)",
    )  # fmt: skip
    parser.add_argument(
        "--resize-masks", action="store_true", help="bring masks of another size to their image's (nearest neighbour)"
    )
    parser.add_argument(
        "--threshold", type=positive_int, metavar="VALUE",
        help="mask values from here on are foreground (default: 1 for 0/1 masks, 128 for others)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from ..convert import dataset
    from ..convert.destination import find_target
    from ..convert.plan import tell_split
    from ..convert.sources import scan

    if (getattr(arguments, "threshold", None) or 0) > 255:
        raise UserError(f"--threshold is for values up to 255, got {arguments.threshold}")
    if getattr(arguments, "size", None):
        arguments.size = _size(arguments.size)
    arguments.source = [source.resolve() for source in arguments.source]
    files, problems = scan(arguments.source)
    plan = _LAYOUTS[arguments.layout].find(files, problems, arguments)
    plan.name = plan.name if arguments.name is None else arguments.name
    target = find_target(arguments.dataset_id, plan.name)
    if any(source.is_relative_to(target.folder) for source in arguments.source):
        raise UserError(f"the source lies in {target.folder}, which would be replaced: choose another --dataset-id")
    if not plan.cases and not plan.problems:
        raise UserError("the source has no cases")
    if arguments.dry_run:
        kept, problems = dataset.check(plan, target, arguments.workers, arguments.skip_bad, arguments.overwrite)
        print(f"{len(kept)} cases of {plan.title} can be converted to {target.folder}")
        print(f"  split: {plan.split}: {tell_split(kept)}")
        for problem in problems:
            _tell(problem.file, problem.text)
        return 0
    options = {name: value for name, value in vars(arguments).items() if name not in _NOT_SETTINGS}
    settings = json.loads(json.dumps({"layout": arguments.layout, **options}, default=str))
    try:
        manifest = dataset.convert(plan, target, settings, arguments.workers, arguments.skip_bad, arguments.overwrite)
    except (KeyboardInterrupt, SystemExit):
        print(f"\nstopped; the same command goes on from {target.hidden}", file=sys.stderr)
        raise
    _print(manifest, target)
    return 0


def _print(manifest: dict, target) -> None:
    continued = f", {manifest['continued']} of them before it was stopped" if manifest["continued"] else ""
    print(f"{manifest['dataset']}: {len(manifest['cases'])} cases{continued}, in {target.folder}")
    print(f"  split: {manifest['split']}")
    # numbers differ from case to case; what was done does not
    kinds = Counter("".join(c for c in change if not c.isdigit()) for r in manifest["cases"] for change in r["changes"])
    examples = {"".join(c for c in x if not c.isdigit()): x for r in manifest["cases"] for x in r["changes"]}
    for kind, count in kinds.most_common():
        texts = {change for r in manifest["cases"] for change in r["changes"]}
        alike = len([text for text in texts if "".join(c for c in text if not c.isdigit()) == kind]) == 1
        print(f"  {count} {'case' if count == 1 else 'cases'}: {'' if alike else 'such as '}{examples[kind]}")
    for note in manifest["notes"]:
        print(f"  {note}")
    for left_out in manifest["left_out"]:
        _tell(left_out["file"], left_out["problem"])
    if target.splits and target.splits.parent.exists():
        print(f"  {target.splits.parent} holds what nnU-Net made of an earlier dataset: plan and preprocess again")
    print(f"  look at {target.folder / 'preview.png'}, then: nnUNetv2_plan_and_preprocess -d {target.number}"
          " --verify_dataset_integrity")  # fmt: skip


def _tell(file: str, problem: str) -> None:
    print(f"{'despite' if file == 'the source' else 'left out'}: {file}: {problem}", file=sys.stderr)


def _size(values: list[int]) -> tuple[int, int]:
    if len(values) > 2:
        raise UserError(f"--size takes one number or two, got {len(values)}")
    return (values[0], values[-1])
