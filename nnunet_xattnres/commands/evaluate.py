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

from ..arguments import positive
from ..errors import UserError
from ..workers import default_workers


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
        "--workers", type=positive, default=default_workers(), metavar="N", help="processes (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation import PROTOCOLS
    from ..evaluation.folders import Evaluation, find_dataset_json, pair, read_labels
    from ..evaluation.report import Report
    from ..files import write_whole
    from ..workers import for_each

    predictions, references = arguments.predictions, arguments.references
    for option, path in (("--json", arguments.json), ("--csv", arguments.csv)):
        if path and not path.resolve().parent.is_dir():  # known before the work, not after it
            raise UserError(f"{option} {path}: there is no folder {path.resolve().parent}: make it first")
    dataset_json = arguments.dataset_json or find_dataset_json(predictions, references)
    labels = read_labels(dataset_json)
    regions = labels.regions | dict(arguments.region)
    unknown = {v for values in dict(arguments.region).values() for v in values} - labels.known
    if unknown:
        raise UserError(f"--region names the values {sorted(unknown)}, {dataset_json} knows {sorted(labels.known)}")
    cases, problems = pair(predictions, references, labels.ending)
    evaluation = Evaluation(predictions, references, labels, regions, arguments.protocol, arguments.tolerance)
    results = dict(for_each(evaluation, cases, arguments.workers, "evaluating"))
    problems += [results[case] for case in cases if isinstance(results[case], str)]
    scores = {case: results[case] for case in cases if not isinstance(results[case], str)}
    if problems and not (arguments.skip_bad and scores):
        listed = "\n".join(f"  {problem}" for problem in problems)
        cure = "nothing is left to evaluate" if arguments.skip_bad else "mend them, or pass --skip-bad"
        raise UserError(f"{len(problems)} of the cases cannot be compared: {cure}\n{listed}")
    in_mm = PROTOCOLS[arguments.protocol].uses_spacing and labels.ending not in _WITHOUT_SPACING
    about = {
        "protocol": arguments.protocol, "unit": "mm" if in_mm else "voxels", "tolerance": arguments.tolerance,
        "predictions": str(predictions.resolve()), "references": str(references.resolve()),
    }  # fmt: skip
    report = Report(scores, about, problems, frozenset(dict(arguments.region)) - set(labels.regions))
    if arguments.json:
        write_whole(arguments.json, json.dumps(report.document(), indent=1, allow_nan=False) + "\n")
    if arguments.csv:
        write_whole(arguments.csv, report.csv())
    _print(report)
    return 0


_WITHOUT_SPACING = (".png", ".bmp", ".tif")  # nnU-Net reads these as natural images, one pixel a unit


def _print(report) -> None:
    about = report.about
    print(report.table())
    print(f"\n{len(report.scores)} cases, protocol {about['protocol']}", end="; ")
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
