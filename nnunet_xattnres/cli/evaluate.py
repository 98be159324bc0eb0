"""xattnres evaluate: score predictions against references with Dice, IoU, HD95, ASSD and surface Dice.

PREDICTIONS and REFERENCES are folders of label maps under nnU-Net's file names, such as the output of
nnUNetv2_predict and the folder labelsTs. The labels and regions are those of dataset.json, which is searched in
PREDICTIONS, in REFERENCES, and in the parent folder of REFERENCES. Files are read by nnU-Net's own readers, chosen as
nnU-Net does: by plans.json in PREDICTIONS or in the folder of the model, by dataset.json, or by the first reader that
can read a reference.

protocols:
  default    Distances are in mm. HD95 is the larger of the 95th percentiles of the two directions. A label that is
             in neither label map is not counted. A label that is in one of them only has a Dice of 0 and no HD95, and
             the table says how many cases the mean of HD95 counts.
  published  The conventions of the paper's tables. Use it only to compare with them. Distances are in voxels. HD95 is
             the 95th percentile of both directions together. Label in neither label map: Dice 0 and HD95 0. Label
             only in the prediction: Dice 1 and HD95 0.

If a file is missing or cannot be compared, nothing is scored and the exit code is 2. With --skip-bad, the other cases
are scored, and the problems are printed and recorded in the JSON file.

examples:
  xattnres evaluate predictions $nnUNet_raw/Dataset501_Nuclei/labelsTs
  xattnres evaluate predictions labelsTs --protocol published --json scores.json --csv scores.csv
  xattnres evaluate predictions labelsTs --region "whole tumour=1,2,3" --tolerance 2
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import UserError
from ..utils.workers import default_workers
from .arguments import positive_int

if TYPE_CHECKING:
    from ..evaluation.labels import Labels
    from ..evaluation.protocols import Scores
    from ..evaluation.report import Report

_MAX_NOTES = 5


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="the folder of predicted label maps")
    parser.add_argument("references", type=Path, metavar="REFERENCES", help="the folder of reference label maps")
    parser.add_argument(
        "--dataset-json",
        type=Path,
        metavar="FILE",
        help="the file with the labels (default: searched, see above)",
    )
    parser.add_argument(
        "--protocol", choices=["default", "published"], default="default",
        help="how scores are computed, see above (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=_tolerance, default=1.0, metavar="MM",
        help="tolerance of the surface Dice in mm; in voxels with --protocol published (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--region", type=_region, action="append", default=[], metavar="NAME=V,V",
        help="also score these label values as one region; can be repeated",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores, means and problems to this file")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row per case and label to this file")
    parser.add_argument(
        "--skip-bad", action="store_true", help="score the cases that can be compared, and list the others"
    )
    parser.add_argument(
        "--workers", type=positive_int, default=default_workers(), metavar="N",
        help="the number of worker processes (default: %(default)s)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation import PROTOCOLS
    from ..evaluation.folders import CaseEvaluator, check_folders, pair_cases
    from ..evaluation.label_maps import has_spacing
    from ..evaluation.labels import find_dataset_json, find_plans, read_labels
    from ..evaluation.problems import ScoringProblem
    from ..evaluation.report import Report
    from ..utils.files import write_atomic
    from ..utils.readers import choose_reader
    from ..utils.workers import map_unordered

    predictions, references = arguments.predictions, arguments.references
    outputs = {"--json": arguments.json, "--csv": arguments.csv}
    _check_outputs(outputs)
    check_folders(predictions, references)
    dataset_json = arguments.dataset_json or find_dataset_json(predictions, references)
    for option, path in outputs.items():
        if path and path.resolve() == dataset_json.resolve():
            raise UserError(f"{option} {path} would overwrite the dataset.json with the labels: name another file")
    try:
        labels = read_labels(dataset_json)
    except UserError as error:
        raise UserError(f"{error} (--dataset-json names another file)") from None
    extra_regions = _check_extra_regions(arguments.region, labels, dataset_json)
    regions = labels.regions | extra_regions
    cases, problems = pair_cases(predictions, references, labels.ending)
    examples = [references / f"{case}{labels.ending}" for case in cases]
    reader = choose_reader(labels.file_format(), examples, find_plans(predictions))
    evaluator = CaseEvaluator(predictions, references, labels, reader, regions, arguments.protocol, arguments.tolerance)
    results = dict(map_unordered(evaluator, cases, arguments.workers, "evaluating"))
    scores: dict[str, dict[str, Scores]] = {}
    notes: list[str] = []
    for case in cases:
        result = results[case]
        if isinstance(result, ScoringProblem):
            problems.append(result)
        else:
            scores[case] = result.scores
            notes += result.notes
    if problems and not (arguments.skip_bad and scores):
        hint = "no other case is left" if arguments.skip_bad else "fix them, or pass --skip-bad to score the others"
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = f"{len(problems)} case{'s' * (len(problems) > 1)}"
        raise UserError(f"{count} cannot be compared: {hint}\n{lines}")
    in_mm = PROTOCOLS[arguments.protocol].uses_spacing and has_spacing(reader)
    metadata = {
        "protocol": arguments.protocol, "unit": "mm" if in_mm else "voxels", "tolerance": arguments.tolerance,
        "predictions": str(predictions.resolve()), "references": str(references.resolve()),
        "reader": reader.__name__,
    }  # fmt: skip
    report = Report(scores, metadata, [str(problem) for problem in problems], frozenset(extra_regions), notes)
    if arguments.json:
        write_atomic(arguments.json, json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    if arguments.csv:
        write_atomic(arguments.csv, report.to_csv())
    _print(report)
    return 0


def _check_outputs(outputs: dict[str, Path | None]) -> None:
    """Raise a UserError before the work starts if a file cannot be written after it."""
    for option, path in outputs.items():
        if path and path.is_dir():
            raise UserError(f"{option} {path} is a folder: name a file")
        if path and not path.resolve().parent.is_dir():
            raise UserError(f"{option} {path}: the folder {path.resolve().parent} does not exist: make it first")
    resolved = [path.resolve() for path in outputs.values() if path]
    if len(set(resolved)) < len(resolved):
        raise UserError("--json and --csv name the same file: name two")


def _check_extra_regions(
    regions: list[tuple[str, tuple[int, ...]]], labels: "Labels", dataset_json: Path
) -> dict[str, tuple[int, ...]]:
    """The regions of --region by name. Their names must be new, and their values must occur in dataset.json."""
    extra_regions = dict(regions)
    if len(extra_regions) < len(regions) or extra_regions.keys() & labels.regions.keys():
        names = ", ".join([*labels.regions, *(name for name, _ in regions)])
        raise UserError(f"--region needs a name that is not used yet, got {names}")
    known = labels.known - {labels.ignore}
    unknown = {value for values in extra_regions.values() for value in values} - known
    if unknown:
        raise UserError(f"--region has the values {sorted(unknown)}, but {dataset_json} has {sorted(known)}")
    return extra_regions


def _print(report: "Report") -> None:
    metadata, unit = report.metadata, report.metadata["unit"]
    print(report.table())
    count = len(report.scores)
    print(
        f"\n{count} {'case' if count == 1 else 'cases'}, protocol {metadata['protocol']}. "
        f"Distances are in {unit}, the tolerance of the surface Dice is {metadata['tolerance']:g} {unit}."
    )
    if lowest := report.lowest_dice():
        print("Lowest Dice: " + ", ".join(f"{100 * dice:.2f} {region} of {case}" for case, region, dice in lowest))
    for problem in report.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    for note in report.notes[:_MAX_NOTES]:
        print(f"note: {note}", file=sys.stderr)
    if len(report.notes) > _MAX_NOTES:
        print(f"note: {len(report.notes) - _MAX_NOTES} more of this kind; --json lists all", file=sys.stderr)


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
