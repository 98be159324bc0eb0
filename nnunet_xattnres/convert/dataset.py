"""Writing an nnU-Net raw dataset: all of it under its name, or nothing.

Cases are converted into a hidden folder beside the target, one record each when its files are written, and the folder
gets the dataset's name when everything is there. A killed conversion leaves the hidden folder, from which the same
command goes on; one that ends by itself leaves the dataset or nothing.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..utils.errors import StepFailedError, UserError
from ..utils.files import read_json, write_atomic
from ..utils.workers import map_unordered
from .case import Case, Reader
from .destination import Target, hidden_folder, publish, recover
from .plan import Plan, tell_split
from .preview import save_preview, spread
from .problems import Problem, UnusableError
from .splits import folds

FOLDERS = {"train": ("imagesTr", "labelsTr"), "val": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


@dataclass(frozen=True)
class _Conversion:
    """What a worker does with a case: its record, or what is wrong with it."""

    reader: Reader
    into: Path | None

    def __call__(self, case: Case) -> dict | Problem:
        try:
            content = self.reader.read(case)
            files = [{"file": f.name, "sha256": hashlib.sha256(f.read()).hexdigest()} for f in case.files]
        except UnusableError as error:
            return error.problem
        record = {
            "case": case.name, "split": case.split, "source": files, "changes": content.changes,
            "voxels": {str(value): count for value, count in content.counts.items()},
        }  # fmt: skip
        if self.into is not None:
            self._write(case, content, record)
        return record

    def _write(self, case: Case, content, record: dict) -> None:
        images, labels = FOLDERS[case.split]
        try:
            self.reader.write(content.image, self.into / "dataset" / images / f"{case.name}_0000{self.reader.ending}")
            if content.labels is not None:
                self.reader.write(content.labels, self.into / "dataset" / labels / f"{case.name}{self.reader.ending}")
            versions = [file.version() for file in case.files]
        except OSError as error:
            cure = "make room, or choose another nnUNet_raw"
            raise StepFailedError(f"cannot write the case {case.name} ({error.strerror}): {cure}") from None
        # last: a case with a record is whole
        write_atomic(self.into / "records" / f"{case.name}.json", json.dumps({**record, "versions": versions}))


def check(
    plan: Plan, target: Target, workers: int, skip_bad: bool, overwrite: bool
) -> tuple[list[Case], list[Problem]]:
    """Read everything and write nothing; returns the cases that can be converted, and all problems.

    Raises:
        UserError: where `convert` would.
    """
    _check_free(target, plan, overwrite)
    results = map_unordered(_Conversion(plan.reader, None), plan.cases, workers, "checking")
    return _judge(plan, {case.name: result for case, result in results}, skip_bad)


def convert(plan: Plan, target: Target, settings: dict, workers: int, skip_bad: bool, overwrite: bool) -> dict:
    """Write the dataset; returns its manifest.

    Args:
        plan: what to convert.
        target: where to.
        settings: everything beside the source that the result depends on; only an equal conversion is continued.
        workers: processes.
        skip_bad: leave out what is unusable, and record it.
        overwrite: replace a dataset of the same name.

    Raises:
        UserError: if the dataset exists, or anything in the source is unusable; nothing is written then.
        StepFailedError: if it cannot be written.
    """
    if plan.problems and not skip_bad:
        check(plan, target, workers, skip_bad, overwrite)  # raises, with everything else that is wrong
    with hidden_folder(target) as hidden:
        recover(target)
        _check_free(target, plan, overwrite)
        records = _continue(hidden, plan, settings)
        left = [case for case in plan.cases if case.name not in records]
        continued = len(records)
        results = map_unordered(_Conversion(plan.reader, hidden), left, workers, "converting")
        records |= {case.name: result for case, result in results}
        kept, problems = _judge(plan, records, skip_bad)
        manifest = _describe(plan, kept, records, problems, settings)
        _finish(hidden / "dataset", plan, kept, manifest)
        publish(hidden / "dataset", target, overwrite)
        return manifest | {"continued": continued}


def _judge(plan: Plan, results: dict[str, dict | Problem], skip_bad: bool) -> tuple[list[Case], list[Problem]]:
    """The cases to keep, and what is wrong: with the source, with its cases, and with the data set as a whole."""
    records = {name: result for name, result in results.items() if not isinstance(result, Problem)}
    counts: Counter[int] = Counter()
    for record in records.values():
        counts.update({int(value): count for value, count in record["voxels"].items()})
    bad = [result for result in results.values() if isinstance(result, Problem)]
    problems = sorted([*plan.problems, *bad, *plan.check(counts)])
    if records and not counts.keys() - {0}:
        problems.append(Problem("the source", "no mask has any foreground: look at its values, and at --threshold"))
    kept = [case for case in plan.cases if case.name in records]
    title = ""
    if problems and not skip_bad:
        found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        cure = "mend them, or pass --skip-bad to leave these out"
        title = f"{found} with {len(plan.cases)} cases, nothing was written: {cure}"
    elif not any(case.split == "train" for case in kept):
        title = f"none of {len(plan.cases)} cases is left to train with"
    if title:
        raise UserError("\n".join([title, *(f"  {problem}" for problem in problems)]))
    return kept, problems


def _check_free(target: Target, plan: Plan, overwrite: bool) -> None:
    if overwrite:
        return
    if target.folder.exists():
        raise UserError(f"{target.folder} exists: choose another --name and --dataset-id, or pass --overwrite")
    if target.splits and target.splits.exists() and not _same_splits(target.splits, plan):
        cure = "pass --overwrite to set it aside"
        raise UserError(f"{target.splits} holds other splits, with which nnU-Net would train: {cure}")


def _same_splits(path: Path, plan: Plan) -> bool:
    """Whether the splits in a file begin with the plan's, and are of the plan's training cases."""
    fold = folds({case.name: case.split for case in plan.cases})
    training = {case.name for case in plan.cases if case.split != "test"}
    try:
        splits = json.loads(path.read_text())
        named = {name for one in splits for part in ("train", "val") for name in one[part]}
        return splits[: len(fold)] == fold and named == training
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _continue(hidden: Path, plan: Plan, settings: dict) -> dict[str, dict]:
    """The records of an equal conversion that was interrupted; anything else is cleared away."""
    wanted = json.loads(json.dumps({**settings, "version": __version__, "cases": _cases(plan)}))
    with contextlib.suppress(UserError):
        # without the folder it has been published
        if read_json(hidden / "settings.json", "settings") == wanted and (hidden / "dataset").is_dir():
            return _records(hidden, plan)
    (hidden / "settings.json").unlink(missing_ok=True)
    for name in ("dataset", "records"):
        shutil.rmtree(hidden / name, ignore_errors=True)
        (hidden / name).mkdir()
    for folder in {f for case in plan.cases for f in FOLDERS[case.split]} | {"imagesTr", "labelsTr"}:
        (hidden / "dataset" / folder).mkdir()
    write_atomic(hidden / "settings.json", json.dumps(wanted))
    return {}


def _cases(plan: Plan) -> list:
    return [[case.name, case.split, [file.name for file in case.files]] for case in plan.cases]


def _records(hidden: Path, plan: Plan) -> dict[str, dict]:
    records = {}
    for case in plan.cases:
        with contextlib.suppress(UserError):
            record = read_json(hidden / "records" / f"{case.name}.json", "a record")
            if record.pop("versions") == [file.version() for file in case.files]:
                records[case.name] = record
    return records


def _describe(plan: Plan, kept: list[Case], records: dict, problems: list[Problem], settings: dict) -> dict:
    return {
        "dataset": plan.title,
        "made_by": f"nnunet-xattnres {__version__}",
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "split": f"{plan.split}: {tell_split(kept)}",
        "notes": [*plan.notes, *_absences(plan, kept, records)],
        "left_out": [{"file": problem.file, "problem": problem.text} for problem in problems],
        "cases": [records[case.name] for case in kept],
    }


def _absences(plan: Plan, kept: list[Case], records: dict) -> list[str]:
    """What one would expect in a dataset, and this one does not have."""
    found = {value for case in kept for value in records[case.name]["voxels"]}
    notes = [f"no case has the label {name}" for name, value in plan.labels.items() if str(value) not in found]
    splits = {case.split for case in kept}
    if "val" not in splits and "val" in {case.split for case in plan.cases}:
        notes.append("no validation case is left: nnU-Net makes its own five folds of the training cases")
    return notes


def _finish(folder: Path, plan: Plan, kept: list[Case], manifest: dict) -> None:
    """Everything beside the cases; and nothing that an interrupted run left of itself or of cases no longer usable."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for case in set(plan.cases) - set(kept):
        images, labels = FOLDERS[case.split]
        (folder / images / f"{case.name}_0000{plan.reader.ending}").unlink(missing_ok=True)
        (folder / labels / f"{case.name}{plan.reader.ending}").unlink(missing_ok=True)
    training = [case for case in kept if case.split != "test"]
    description = {
        "name": plan.name, "description": plan.title,
        "channel_names": {str(i): name for i, name in enumerate(plan.channel_names)},
        "labels": plan.labels, "numTraining": len(training), "file_ending": plan.reader.ending,
    }  # fmt: skip
    write_atomic(folder / "dataset.json", json.dumps(description, indent=2) + "\n")
    fold = folds({case.name: case.split for case in kept})
    if fold:
        write_atomic(folder / "splits_final.json", json.dumps(fold, indent=1) + "\n")
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    filled = {record["case"] for record in manifest["cases"] if record["voxels"].keys() - {"0"}}
    shown = {case.name: case for case in ([case for case in kept if case.name in filled] or training)}
    pictures = []
    for name in spread(sorted(shown)):
        images, labels = (folder / f for f in FOLDERS[shown[name].split])
        ending = plan.reader.ending
        pictures.append((name, *plan.reader.show(images / f"{name}_0000{ending}", labels / f"{name}{ending}")))
    save_preview(pictures, plan.labels, f"{plan.title}: {manifest['split']}", folder / "preview.png")
