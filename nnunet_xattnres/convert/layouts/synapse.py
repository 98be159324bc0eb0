"""Synapse/BTCV: abdominal CT with 13 organs, as NIfTI or as TransUNet's arrays."""

import argparse
import math
import re
from collections.abc import Sequence

from ...utils.errors import UserError
from ..arrays import ArrayReader
from ..case import Case
from ..labels import LabelMap
from ..plan import Counts, FilesByCase, Plan, pair
from ..problems import Problem
from ..sources import File
from ..splits import published
from ..volumes import ENDINGS, WINDOW, NiftiReader

ORGANS = (
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip
"""BTCV's labels 1 to 13."""

EIGHT = ("spleen", "right kidney", "left kidney", "gallbladder", "pancreas", "liver", "stomach", "aorta")
"""The paper's labels 1 to 8."""

_ALPHABETICAL = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
ORDERS = {"btcv": ORGANS, "paper": EIGHT, "transunet": _ALPHABETICAL}
"""What the values 1, 2, ... mean in the forms that circulate."""

_IMAGE, _LABEL = re.compile(r"img(\d{4})"), re.compile(r"label(\d{4})")
_SLICE, _VOLUME = re.compile(r"(case\d{4})_slice(\d{3})"), re.compile(r"(case\d{4})")
_LARGEST = "liver"  # of the abdominal organs, in everybody


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--organs", type=int, choices=[8, 13], default=8,
        help="the paper's 8 organs, or all 13 of BTCV (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-window", action="store_true",
        help=f"keep all HU of NIfTI images; without it they are clipped to {list(WINDOW)}, as in the paper",
    )  # fmt: skip
    parser.add_argument(
        "--source-labels", choices=list(ORDERS),
        help="arrays only: what their values mean: btcv (1..13), paper (5 pancreas, 6 liver) or transunet "
        "(alphabetical: 1 aorta ... 5 liver, 6 pancreas); a liver that is not the largest organ is reported",
    )  # fmt: skip
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="arrays only: the size of their voxels in mm, which they do not hold (default: 1 1 1)",
    )  # fmt: skip


def find(files: Sequence[File], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    """The cases in the files of a source."""
    nifti = [f for f in files if f.ending in ENDINGS and (_IMAGE.fullmatch(f.stem) or _LABEL.fullmatch(f.stem))]
    slices = [f for f in files if f.ending == ".npz" and _SLICE.fullmatch(f.stem)]
    volumes = [f for f in files if f.ending in (".npy.h5", ".h5") and _VOLUME.fullmatch(f.stem)]
    if nifti and (slices or volumes):
        raise UserError("the source has Synapse as NIfTI and as arrays: name the folder of one form")
    if slices or volumes:
        return _from_arrays(slices, volumes, list(problems), arguments)
    if nifti:
        if arguments.source_labels or arguments.spacing:
            raise UserError("--source-labels and --spacing are for arrays, and the source is NIfTI")
        return _from_nifti(nifti, list(problems), arguments)
    wanted = "img0001.nii.gz and label0001.nii.gz, or case0005_slice000.npz and case0001.npy.h5"
    raise UserError(f"no Synapse in the source; expected files such as {wanted}")


def _from_nifti(files: Sequence[File], problems: list[Problem], arguments: argparse.Namespace) -> Plan:
    def case_of(file: File) -> str:
        return f"case{file.stem[-4:]}"

    images = FilesByCase((f for f in files if _IMAGE.fullmatch(f.stem)), case_of)
    labels = FilesByCase((f for f in files if _LABEL.fullmatch(f.stem)), case_of)
    entries = published("synapse")
    # the challenge's own test cases have no labels, and no part in the paper
    others = sorted(images.keys() - labels.keys() - entries.keys())
    notes = [f"{len(others)} images without labels are left aside: the challenge's own test cases"] if others else []
    for name in others:
        del images[name]
    names, unpaired = pair(images, labels)
    problems += unpaired
    cases = [Case(n, entries[n].split, (images[n],), (labels[n],)) for n in names if n in entries]
    problems += [Problem(images[n].name, "is not one of the 30 cases on the list") for n in names if n not in entries]
    window = None if arguments.no_window else WINDOW
    reader = NiftiReader(_label_map("btcv", arguments.organs), window)
    return _plan("BTCV NIfTI", cases, reader, problems, notes, arguments.organs)


def _from_arrays(
    slices: Sequence[File], volumes: Sequence[File], problems: list[Problem], arguments: argparse.Namespace
) -> Plan:
    if arguments.source_labels is None:
        wanted = "btcv, paper or transunet (see --help); the files do not say, and the liver tells: it is the largest"
        raise UserError(f"arrays need --source-labels: {wanted}")
    if arguments.organs == 13 and arguments.source_labels != "btcv":
        raise UserError(f"--organs 13 needs arrays with --source-labels btcv; {arguments.source_labels} has 8 organs")
    if arguments.no_window:
        raise UserError("--no-window is for NIfTI: arrays hold no HU beyond the window")
    spacing = tuple(arguments.spacing or (1.0, 1.0, 1.0))
    if not all(0 < length < math.inf for length in spacing):
        raise UserError(f"--spacing must be three lengths above 0 mm, got {list(spacing)}")
    entries = published("synapse")
    found: dict[str, dict[int, File]] = {}
    for file in slices:
        name, number = _SLICE.fullmatch(file.stem).groups()
        if other := found.setdefault(name, {}).get(int(number)):
            problems.append(Problem(file.name, f"is the same slice as {other.name}: keep one of them"))
        found[name][int(number)] = file
    whole = FilesByCase(volumes)
    problems += whole.problems()
    cases = [Case(name, entries[name].split, (file,)) for name, file in whole.items() if name in entries]
    for name, numbered in found.items():
        expected = entries[name].slices if name in entries else None
        missing = sorted(set(range(expected or max(numbered) + 1)) - numbered.keys())
        if name in whole:
            problems.append(Problem(whole[name].name, "is there as slices, too: keep one form"))
        elif missing:
            some = ", ".join(f"{n:03d}" for n in missing[:5])
            problems.append(
                Problem(name, f"{len(missing)} of its slices are not there: {some}{' ...' * (len(missing) > 5)}")
            )
        elif name in entries:
            cases.append(Case(name, entries[name].split, tuple(numbered[n] for n in sorted(numbered))))
    problems += [Problem(n, "is not one of the 30 cases on the list") for n in {*found, *whole} - entries.keys()]
    notes = [f"arrays hold no geometry: the spacing is set to {list(spacing)} mm, and directions are theirs"]
    reader = ArrayReader(_label_map(arguments.source_labels, arguments.organs), spacing)
    return _plan("TransUNet arrays", sorted(cases, key=lambda c: c.name), reader, problems, notes, arguments.organs)


def _plan(form: str, cases: list[Case], reader, problems: list[Problem], notes: list[str], organs: int) -> Plan:
    missing = sorted(published("synapse").keys() - {case.name for case in cases})
    told = {f"case{problem.file.split('.')[0][-4:]}" for problem in problems}
    if missing := [name for name in missing if name not in told]:
        text = f"{len(missing)} of the 30 cases on the list are not there or not usable: {', '.join(missing)}"
        problems.append(Problem("the source", text))
    names = ORGANS if organs == 13 else EIGHT
    notes.append("the paper has no validation cases: nnU-Net makes its five folds of the 18 training cases")
    labels = {"background": 0} | {name: value for value, name in enumerate(names, 1)}
    return Plan(
        title=f"Synapse, {organs} organs ({form})", name="Synapse" if organs == 8 else "BTCV", cases=cases,
        reader=reader, labels=labels, channel_names=("CT",), split="the published lists",
        problems=problems, notes=notes, check=_LargestOrgan(labels),
    )  # fmt: skip


def _label_map(order: str, organs: int) -> LabelMap:
    names = ORGANS if organs == 13 else EIGHT
    labels = {"background": 0} | {name: value for value, name in enumerate(names, 1)}
    values = {value: labels.get(name, 0) for value, name in enumerate(ORDERS[order], 1)}
    return LabelMap({0: 0} | values, labels)


class _LargestOrgan:
    """Anatomy's own check that the values mean what was said."""

    def __init__(self, labels):
        self.labels = labels

    def __call__(self, counts: Counts) -> list[Problem]:
        organs = {name: counts.get(value, 0) for name, value in self.labels.items() if value}
        largest = max(organs, key=organs.get)
        if not organs[largest] or largest == _LARGEST:
            return []
        text = f"its largest organ would be the {largest}, not the {_LARGEST}: the labels mean something else"
        return [Problem("the source", f"{text} (arrays: try another --source-labels)")]
