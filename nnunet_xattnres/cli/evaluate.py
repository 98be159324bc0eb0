"""xattnres evaluate: predictions against references: Dice, IoU, HD95, ASSD and surface Dice.

PREDICTIONS and REFERENCES are folders of label maps under nnU-Net's names, such as the output of nnUNetv2_predict and
labelsTs. Labels and regions are those of dataset.json (beside the predictions, the references, or above these).

Protocols:
  default    distances in mm; HD95 is the larger of the two directions' 95th percentiles; a label that neither mask
             has is not counted; one that a single mask has scores Dice 0 and has no HD95, and the table says so
  published  as the paper's tables were made, for standing beside them only: distances in voxels, HD95 of both
             directions together; neither mask has the label: Dice 0, HD95 0; only the prediction: Dice 1, HD95 0

Exit code 2 if files are missing or cannot be compared; --skip-bad evaluates the others and records these.

examples:
  xattnres evaluate predictions $nnUNet_raw/Dataset501_Nuclei/labelsTs
  xattnres evaluate predictions labelsTs --protocol published --json scores.json --csv scores.csv
  xattnres evaluate predictions labelsTs --region "whole tumour=1,2,3" --tolerance 2
"""

import argparse
import json
import sys
from pathlib import Path

from ..utils.errors import UserError
from ..utils.workers import default_workers
from .arguments import positive_int


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted label maps")
    parser.add_argument("references", type=Path, metavar="REFERENCES", help="folder of reference label maps")
    parser.add_argument("--dataset-json", type=Path, metavar="FILE", help="the dataset.json to read labels from")
    parser.add_argument(
        "--protocol", choices=["default", "published"], default="default", help="see above (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance", type=_tolerance, default=1.0, metavar="MM",
        help="of the surface Dice, in mm; in voxels with --protocol published (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--region", type=_region, action="append", default=[], metavar="NAME=V,V",
        help="score these label values together, too; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores, means and problems there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row per case and label there")
    parser.add_argument("--skip-bad", action="store_true", help="evaluate what can be, and record the rest")
    parser.add_argument(
        "--workers", type=positive_int, default=default_workers(), metavar="N", help="processes (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation import PROTOCOLS
    from ..evaluation.folders import CaseEvaluator, Problem, check_folders, find_dataset_json, pair_cases, read_labels
    from ..evaluation.report import Report
    from ..utils.files import write_atomic
    from ..utils.workers import map_unordered

    predictions, references = arguments.predictions, arguments.references
    for option, path in (("--json", arguments.json), ("--csv", arguments.csv)):
        # known before the work, not after it
        if path and path.is_dir():
            raise UserError(f"{option} {path} is a folder: name a file")
        if path and not path.resolve().parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {path.resolve().parent}: make it first")
    if arguments.json and arguments.csv and arguments.json.resolve() == arguments.csv.resolve():
        raise UserError("--json and --csv name one file: name two")
    check_folders(predictions, references)
    dataset_json = arguments.dataset_json or find_dataset_json(predictions, references)
    for option, path in (("--json", arguments.json), ("--csv", arguments.csv)):
        if path and path.resolve() == dataset_json.resolve():
            raise UserError(f"{option} would replace {path}, which holds the labels: name another file")
    labels = read_labels(dataset_json)
    added = _added_regions(arguments.region, labels, dataset_json)
    regions = labels.regions | added
    cases, problems = pair_cases(predictions, references, labels.ending)
    evaluation = CaseEvaluator(predictions, references, labels, regions, arguments.protocol, arguments.tolerance)
    results = dict(map_unordered(evaluation, cases, arguments.workers, "evaluating"))
    scores = {}
    for case in cases:
        result = results[case]
        if isinstance(result, Problem):
            problems.append(result)
        else:
            scores[case] = result
    if problems and not (arguments.skip_bad and scores):
        listed = "\n".join(f"  {problem}" for problem in problems)
        cure = "nothing is left to evaluate" if arguments.skip_bad else "mend them, or pass --skip-bad"
        raise UserError(f"{len(problems)} of the cases cannot be compared: {cure}\n{listed}")
    in_mm = PROTOCOLS[arguments.protocol].uses_spacing and labels.has_spacing
    about = {
        "protocol": arguments.protocol, "unit": "mm" if in_mm else "voxels", "tolerance": arguments.tolerance,
        "predictions": str(predictions.resolve()), "references": str(references.resolve()),
    }  # fmt: skip
    report = Report(scores, about, [str(problem) for problem in problems], frozenset(added))
    if arguments.json:
        write_atomic(arguments.json, json.dumps(report.document(), indent=1, allow_nan=False) + "\n")
    if arguments.csv:
        write_atomic(arguments.csv, report.csv())
    _print(report)
    return 0


def _added_regions(regions: list, labels, dataset_json: Path) -> dict:
    """The user's own regions, once they are seen to be new and of known values."""
    added = dict(regions)
    if len(added) < len(regions) or added.keys() & labels.regions.keys():
        names = ", ".join([*labels.regions, *(name for name, _ in regions)])
        raise UserError(f"--region needs names of its own, each once, got {names}")
    known = labels.known - {labels.ignore}
    unknown = {value for values in added.values() for value in values} - known
    if unknown:
        raise UserError(f"--region names the values {sorted(unknown)}, {dataset_json} knows {sorted(known)}")
    return added


def _print(report) -> None:
    about = report.about
    print(report.table())
    count = len(report.scores)
    print(f"\n{count} {'case' if count == 1 else 'cases'}, protocol {about['protocol']}", end="; ")
    print(f"surface Dice at {about['tolerance']:g} {about['unit']}, distances in {about['unit']}.")
    if worst := report.worst():
        print("Lowest Dice: " + ", ".join(f"{100 * dice:.2f} {region} of {case}" for case, region, dice in worst))
    for problem in report.problems:
        print(f"left out: {problem}", file=sys.stderr)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a distance of at least 0 mm, got {text!r}")
    return value


def _region(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, values = text.rpartition("=")
    if not name or not all(v.strip().isdigit() for v in values.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE,VALUE such as tumour=1,2, got {text!r}")
    return name, tuple(int(v) for v in values.split(","))
