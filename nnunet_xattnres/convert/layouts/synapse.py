"""Synapse/BTCV: abdominal CT with 13 organs, as NIfTI or as TransUNet's arrays."""

import argparse
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ...utils.errors import UserError
from ..case import Reader, SourceCase
from ..formats import CT_WINDOW, VOLUME_ENDINGS
from ..plan import FilesByCase, Plan, VoxelCounts, pair
from ..problems import SOURCE, Problem, ProblemCode, shorten
from ..sources import SourceFile
from ..splits import ListedCase, published_list
from .layout import Layout

if TYPE_CHECKING:
    from ..labels import LabelMap

BTCV_ORGANS = (
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip
"""BTCV's labels 1 to 13."""

PAPER_ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "pancreas", "liver", "stomach", "aorta")
"""The paper's labels 1 to 8."""

_ALPHABETICAL = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
LABEL_ORDERS = {"btcv": BTCV_ORGANS, "paper": PAPER_ORGANS, "transunet": _ALPHABETICAL}
"""The organs with the values 1, 2, ... in the versions of the arrays that are in use."""

_IMAGE, _LABEL = re.compile(r"img(\d{4})"), re.compile(r"label(\d{4})")
_SLICE, _VOLUME = re.compile(r"(case\d{4})_slice(\d{3})"), re.compile(r"(case\d{4})")
_LARGEST_ORGAN = "liver"  # the largest abdominal organ of every patient
_NOT_LISTED = "the case is not one of the 30 on the published list"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this layout."""
    parser.add_argument(
        "--organs", type=int, choices=[8, 13], default=8,
        help="keep the paper's 8 organs, or all 13 organs of BTCV (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-window", action="store_true",
        help=f"NIfTI only: keep all HU instead of clipping them to {list(CT_WINDOW)} as the paper does",
    )  # fmt: skip
    parser.add_argument(
        "--source-labels", choices=list(LABEL_ORDERS),
        help="arrays only, required: the order of their labels: btcv (1 to 13), paper (5 pancreas, 6 liver) or "
        "transunet (alphabetical: 1 aorta, 5 liver, 6 pancreas); if the liver would not be the largest organ, "
        "the order is reported as wrong",
    )  # fmt: skip
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="arrays only: the voxel spacing in mm, which the files do not hold (default: 1 1 1)",
    )  # fmt: skip


def make_plan(files: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """Make the plan of a source with this layout; see `Layout`."""
    nifti = [f for f in files if f.ending in VOLUME_ENDINGS and (_IMAGE.fullmatch(f.stem) or _LABEL.fullmatch(f.stem))]
    slices = [f for f in files if f.ending == ".npz" and _SLICE.fullmatch(f.stem)]
    volumes = [f for f in files if f.ending in (".npy.h5", ".h5") and _VOLUME.fullmatch(f.stem)]
    if nifti and (slices or volumes):
        raise UserError("the source has Synapse as NIfTI and as arrays: name the folder of one of them")
    if slices or volumes:
        return _plan_arrays(slices, volumes, list(problems), arguments)
    if nifti:
        if arguments.source_labels or arguments.spacing:
            raise UserError("--source-labels and --spacing are for arrays, but the source is NIfTI: leave them out")
        return _plan_nifti(nifti, list(problems), arguments)
    expected = "img0001.nii.gz and label0001.nii.gz, or case0005_slice000.npz and case0001.npy.h5"
    raise UserError(f"no Synapse files in the source: expected files such as {expected}")


def _plan_nifti(files: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    from ..volumes import NiftiReader

    def case_of(file: SourceFile) -> str:
        return f"case{file.stem[-4:]}"

    images = FilesByCase((f for f in files if _IMAGE.fullmatch(f.stem)), case_of)
    labels = FilesByCase((f for f in files if _LABEL.fullmatch(f.stem)), case_of)
    listed = published_list("synapse")
    # the challenge's own test cases have no labels, and the paper does not use them
    unlabelled = sorted(images.keys() - labels.keys() - listed.keys())
    notes = [f"{len(unlabelled)} images without labels (the challenge's test cases) are ignored"] if unlabelled else []
    for name in unlabelled:
        del images[name]
    names, unpaired = pair(images, labels)
    problems += unpaired
    cases = [SourceCase(n, listed[n].split, (images[n],), (labels[n],)) for n in names if n in listed]
    problems += [Problem(images[n].name, ProblemCode.NOT_LISTED, _NOT_LISTED) for n in names if n not in listed]
    reader = NiftiReader(_label_map("btcv", arguments.organs), None if arguments.no_window else CT_WINDOW)
    return _make_plan("BTCV NIfTI", cases, reader, problems, notes, arguments.organs)


def _plan_arrays(
    slices: Sequence[SourceFile], volumes: Sequence[SourceFile], problems: list[Problem], arguments: argparse.Namespace
) -> Plan:
    from ..arrays import ArrayReader

    spacing = _check_array_options(arguments)
    listed = published_list("synapse")
    slices_by_case: dict[str, dict[int, SourceFile]] = {}
    for file in slices:
        name, number = file.stem.split("_slice")
        numbered = slices_by_case.setdefault(name, {})
        if other := numbered.get(int(number)):
            text = f"the file is the same slice as {other.name}; keep one of them"
            problems.append(Problem(file.name, ProblemCode.DUPLICATE, text))
        numbered[int(number)] = file
    volumes_by_case = FilesByCase(volumes)
    problems += volumes_by_case.problems()
    cases = [SourceCase(name, listed[name].split, (file,)) for name, file in volumes_by_case.items() if name in listed]
    for name, numbered in slices_by_case.items():
        if name in volumes_by_case:
            text = "the source has the case as slices, too; keep one of them"
            problems.append(Problem(volumes_by_case[name].name, ProblemCode.DUPLICATE, text))
        elif missing := _missing_slices(numbered, listed.get(name)):
            text = f"{len(missing)} slices are missing: {shorten([f'{number:03d}' for number in missing])}"
            problems.append(Problem(name, ProblemCode.INCOMPLETE, text))
        elif name in listed:
            cases.append(SourceCase(name, listed[name].split, tuple(numbered[number] for number in sorted(numbered))))
    not_listed = {*slices_by_case, *volumes_by_case} - listed.keys()
    problems += [Problem(name, ProblemCode.NOT_LISTED, _NOT_LISTED) for name in not_listed]
    notes = [f"the arrays have no geometry: the spacing is set to {list(spacing)} mm, the direction to the identity"]
    reader = ArrayReader(_label_map(arguments.source_labels, arguments.organs), spacing)
    return _make_plan(
        "TransUNet arrays", sorted(cases, key=lambda c: c.name), reader, problems, notes, arguments.organs
    )


def _check_array_options(arguments: argparse.Namespace) -> tuple[float, float, float]:
    """The voxel spacing; raises a UserError if an option does not fit TransUNet's arrays."""
    if arguments.source_labels is None:
        expected = "btcv, paper or transunet (see --help); the liver is the largest organ in every order"
        raise UserError(f"arrays need --source-labels: {expected}")
    if arguments.organs == 13 and arguments.source_labels != "btcv":
        raise UserError(f"--organs 13 needs arrays with --source-labels btcv: {arguments.source_labels} has 8 organs")
    if arguments.no_window:
        raise UserError("--no-window is for NIfTI: arrays hold no HU outside the window")
    x, y, z = arguments.spacing or (1.0, 1.0, 1.0)
    if not all(0 < length < math.inf for length in (x, y, z)):
        raise UserError(f"--spacing must be three lengths above 0 mm, got {[x, y, z]}")
    return x, y, z


def _missing_slices(numbered: dict[int, SourceFile], listed: ListedCase | None) -> list[int]:
    """The slices that a case should have; without a number on the list, those below its last slice."""
    expected = (listed and listed.slices) or max(numbered) + 1
    return sorted(set(range(expected)) - numbered.keys())


def _make_plan(
    form: str, cases: list[SourceCase], reader: Reader, problems: list[Problem], notes: list[str], organs: int
) -> Plan:
    reported = {f"case{problem.file.split('.')[0][-4:]}" for problem in problems}
    missing = sorted(published_list("synapse").keys() - {case.name for case in cases} - reported)
    if missing:
        text = f"{len(missing)} of the 30 cases on the published list are missing: {shorten(missing, len(missing))}"
        problems.append(Problem(SOURCE, ProblemCode.INCOMPLETE, text))
    notes.append("the paper has no validation cases; nnU-Net makes its five folds of the 18 training cases")
    labels = _labels(organs)
    return Plan(
        title=f"Synapse, {organs} organs ({form})", name="Synapse" if organs == 8 else "BTCV", cases=cases,
        reader=reader, labels=labels, channel_names=("CT",), split="the published list",
        problems=problems, notes=notes, check=partial(_check_largest_organ, labels),
    )  # fmt: skip


def _labels(organs: int) -> dict[str, int]:
    """Label by name, as in nnU-Net's dataset.json."""
    names = BTCV_ORGANS if organs == 13 else PAPER_ORGANS
    return {"background": 0} | {name: label for label, name in enumerate(names, 1)}


def _label_map(order: str, organs: int) -> "LabelMap":
    """The label map from one of `LABEL_ORDERS` to 8 or 13 organs; organs that are not kept become background."""
    from ..labels import LabelMap

    labels = _labels(organs)
    return LabelMap({0: 0} | {value: labels.get(name, 0) for value, name in enumerate(LABEL_ORDERS[order], 1)}, labels)


def _check_largest_organ(labels: dict[str, int], counts: VoxelCounts) -> list[Problem]:
    """A problem if the largest organ is not the liver, because then the labels are in another order."""
    sizes = {name: counts.get(label, 0) for name, label in labels.items() if label}
    largest = max(sizes, key=lambda name: sizes[name])
    if not sizes[largest] or largest == _LARGEST_ORGAN:
        return []
    text = f"the largest organ would be the {largest} instead of the {_LARGEST_ORGAN}; the labels are in another order"
    return [Problem(SOURCE, ProblemCode.LABEL_ORDER, f"{text} (arrays: try another --source-labels)")]


LAYOUT = Layout(
    summary="Synapse/BTCV: img0001.nii.gz and label0001.nii.gz, or TransUNet's npz and h5",
    description="""\
Convert the 30 labelled abdominal CTs of Synapse (BTCV).

The source is one of two downloads:
- BTCV's NIfTI files img0001.nii.gz and label0001.nii.gz, as RawData.zip or unpacked. Images are clipped to [-125, 275]
  HU, and of the 13 organs the paper's 8 are kept.
- TransUNet's preprocessed arrays case0005_slice000.npz and case0001.npy.h5. They hold no spacing (see --spacing), and
  versions with different label orders are in use (see --source-labels).

The published list defines the split: 18 training and 12 test cases.

examples:
  xattnres convert synapse RawData.zip --dataset-id 501
  xattnres convert synapse Synapse --dataset-id 501 --source-labels transunet
""",
    configure=configure,
    make_plan=make_plan,
    has_images=False,
)
