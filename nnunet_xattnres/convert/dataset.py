"""Write an nnU-Net raw dataset: completely, or not at all.

Cases are converted into a hidden working folder beside the target, with one record per finished case, and the folder
gets the dataset's name when everything is finished. A conversion that is killed leaves the working folder, and the same
command continues from it. A conversion that ends by itself leaves the dataset, or nothing.
"""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..utils.errors import StepFailedError, UserError
from ..utils.files import read_json, write_atomic
from ..utils.plotting import choose_evenly
from ..utils.workers import map_unordered
from .case import CaseData, Reader, SourceCase
from .destination import Target, open_working_folder, publish, recover
from .plan import Plan, describe_split
from .preview import COLUMNS, ROWS, save_preview
from .problems import SOURCE, Problem, ProblemCode, UnusableError
from .sources import HashedFile
from .splits import make_folds

FOLDERS = {"train": ("imagesTr", "labelsTr"), "val": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}
"""nnU-Net's folders of images and label maps by split."""


_NUM_FOLDS = 5  # of nnU-Net's own splits


@dataclass(frozen=True)
class _CaseConverter:
    """The function that workers apply to every case; it returns the record of the case, or its problem.

    Attributes:
        reader: the reader of the cases.
        folder: the working folder; None checks the case and writes nothing.
    """

    reader: Reader
    folder: Path | None

    def __call__(self, case: SourceCase) -> dict | Problem:
        image, mask = (tuple(map(HashedFile.of, files)) for files in (case.image, case.mask))
        try:
            data = self.reader.read(replace(case, image=image, mask=mask))
            files = [{"file": file.name, "sha256": file.sha256()} for file in image + mask]
        except UnusableError as error:
            return error.problem
        renamed = [f"renamed for nnU-Net; the name in the source: {case.source_name}"] if case.source_name else []
        record = {
            "case": case.name, "split": case.split, "source": files, "changes": renamed + data.changes,
            "voxels": {str(label): count for label, count in data.counts.items()},
        }  # fmt: skip
        if data.nnunet_reader:
            record["nnunet_reader"] = data.nnunet_reader
        if self.folder is not None:
            self._write(case, data, record, self.folder)
        return record

    def _write(self, case: SourceCase, data: CaseData, record: dict, folder: Path) -> None:
        image_path, label_path = _case_paths(folder / "dataset", case, self.reader.ending)
        try:
            self.reader.write(data.image, image_path)
            if data.labels is not None:
                self.reader.write(data.labels, label_path)
            versions = [file.version() for file in case.files]
        except OSError as error:
            hint = "free some space, or choose another nnUNet_raw"
            raise StepFailedError(f"cannot write the case {case.name} ({error.strerror}): {hint}") from None
        # written last: a case that has a record is complete
        write_atomic(folder / "records" / f"{case.name}.json", json.dumps({**record, "versions": versions}))


def check(
    plan: Plan, target: Target, workers: int, skip_bad: bool, overwrite: bool
) -> tuple[list[SourceCase], list[Problem]]:
    """Read and check everything, and write nothing; see `convert` for the arguments.

    Returns:
        The cases that can be converted, and all problems.

    Raises:
        UserError: where `convert` would raise it.
    """
    _check_target_is_free(target, plan, overwrite)
    _prepare(plan, workers)
    results = map_unordered(_CaseConverter(plan.reader, None), plan.cases, workers, "checking")
    return _select_cases(plan, {case.name: result for case, result in results}, skip_bad)


def convert(plan: Plan, target: Target, settings: dict, workers: int, skip_bad: bool, overwrite: bool) -> dict:
    """Write the dataset.

    Args:
        plan: the data set.
        target: the names of the dataset in nnU-Net's folders.
        settings: every option that changes the result; only a conversion with equal settings is continued.
        workers: number of processes.
        skip_bad: skip what cannot be used and record it in the manifest.
        overwrite: replace a dataset of the same number and name.

    Returns:
        The manifest, and under "continued" the number of cases that an interrupted conversion had finished.

    Raises:
        UserError: if the dataset exists, or if anything in the source cannot be used; then nothing is written.
        StepFailedError: if the dataset cannot be written.
    """
    if plan.problems and not skip_bad:
        check(plan, target, workers, skip_bad, overwrite)  # raises, and lists the problems of the cases as well
    with open_working_folder(target) as folder:
        recover(target)
        _check_target_is_free(target, plan, overwrite)
        _prepare(plan, workers)
        records = _finished_records(folder, plan, settings)
        num_continued = len(records)
        remaining = [case for case in plan.cases if case.name not in records]
        results: dict[str, dict | Problem] = {**records}
        for case, result in map_unordered(_CaseConverter(plan.reader, folder), remaining, workers, "converting"):
            results[case.name] = result
        kept, problems = _select_cases(plan, results, skip_bad)
        manifest = _make_manifest(plan, kept, _records(results), problems, settings)
        _complete(folder / "dataset", plan, kept, manifest)
        publish(folder / "dataset", target, overwrite)
        return manifest | {"continued": num_continued}


def _prepare(plan: Plan, workers: int) -> None:
    """Let the reader decide what must be the same for all cases; see `Reader.prepare`."""
    plan.reader, notes = plan.reader.prepare(plan.cases, workers)
    plan.notes += notes


def _case_paths(dataset: Path, case: SourceCase, ending: str) -> tuple[Path, Path]:
    """The files of a case's image and label map."""
    images, labels = FOLDERS[case.split]
    return dataset / images / f"{case.name}_0000{ending}", dataset / labels / f"{case.name}{ending}"


def _records(results: Mapping[str, dict | Problem]) -> dict[str, dict]:
    return {name: result for name, result in results.items() if not isinstance(result, Problem)}


def _select_cases(
    plan: Plan, results: Mapping[str, dict | Problem], skip_bad: bool
) -> tuple[list[SourceCase], list[Problem]]:
    """The cases to keep, and the problems of the source, of its cases, and of the data set as a whole.

    Raises:
        UserError: if there are problems that may not be skipped, or if no training case is kept.
    """
    records = _records(results)
    counts: Counter[int] = Counter()
    for record in records.values():
        counts.update({int(label): count for label, count in record["voxels"].items()})
    case_problems = [result for result in results.values() if isinstance(result, Problem)]
    problems = sorted([*plan.problems, *case_problems, *plan.check(counts)])
    if records and not counts.keys() - {0}:
        text = "no mask has any foreground; check the values of the masks, and --threshold"
        problems.append(Problem(SOURCE, ProblemCode.NO_FOREGROUND, text))
    kept = [case for case in plan.cases if case.name in records]
    title = ""
    if problems and not skip_bad:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        hint = "fix them, or pass --skip-bad to skip what cannot be used"
        title = f"{count} with {len(plan.cases)} cases, nothing was written: {hint}"
    elif not any(case.split == "train" for case in kept):
        title = f"none of {len(plan.cases)} cases can be used for training, nothing was written; split: {plan.split}"
    if title:
        raise UserError("\n".join([title, *(f"  {problem}" for problem in problems)]))
    return kept, problems


def _check_target_is_free(target: Target, plan: Plan, overwrite: bool) -> None:
    """Raise a UserError if the dataset exists, or if nnU-Net would train it with other splits."""
    if overwrite:
        return
    if target.folder.exists():
        raise UserError(f"{target.folder} exists: choose another --name and --dataset-id, or pass --overwrite")
    if target.splits and target.splits.exists() and not _has_splits_of(target.splits, plan):
        hint = "pass --overwrite to rename that file"
        raise UserError(f"{target.splits} holds other splits, which nnU-Net would use for training: {hint}")


def _has_splits_of(path: Path, plan: Plan) -> bool:
    """Whether a splits file begins with the plan's splits, and names exactly the plan's training cases."""
    folds = make_folds({case.name: case.split for case in plan.cases})
    training = {case.name for case in plan.cases if case.split != "test"}
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        names = {name for fold in splits for part in ("train", "val") for name in fold[part]}
        return splits[: len(folds)] == folds and names == training
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _finished_records(folder: Path, plan: Plan, settings: dict) -> dict[str, dict]:
    """The records of an interrupted conversion with equal settings; anything else is removed from the folder."""
    cases = [[case.name, case.split, [file.name for file in case.files]] for case in plan.cases]
    expected = json.loads(json.dumps({**settings, "version": __version__, "reader": repr(plan.reader), "cases": cases}))
    with contextlib.suppress(UserError):
        # if the folder `dataset` is missing, the dataset was published
        if read_json(folder / "settings.json", "settings") == expected and (folder / "dataset").is_dir():
            return _read_records(folder / "records", plan)
    (folder / "settings.json").unlink(missing_ok=True)
    for name in ("dataset", "records"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    for name in {name for case in plan.cases for name in FOLDERS[case.split]} | {"imagesTr", "labelsTr"}:
        (folder / "dataset" / name).mkdir()
    write_atomic(folder / "settings.json", json.dumps(expected))
    return {}


def _read_records(folder: Path, plan: Plan) -> dict[str, dict]:
    """The records of all finished cases whose files have not changed since."""
    records = {}
    for case in plan.cases:
        with contextlib.suppress(UserError):
            record = read_json(folder / f"{case.name}.json", "a record")
            if record.pop("versions") == [file.version() for file in case.files]:
                records[case.name] = record
    return records


def _make_manifest(
    plan: Plan, kept: list[SourceCase], records: dict[str, dict], problems: list[Problem], settings: dict
) -> dict:
    return {
        "dataset": plan.title,
        "made_by": f"nnunet-xattnres {__version__}",
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": settings,
        "split": f"{plan.split}: {describe_split(kept)}",
        "notes": [*plan.notes, *_missing_parts(plan, kept, records), *_repeated_images(kept, records)],
        "left_out": [{"file": p.file, "code": p.code.value, "problem": p.text} for p in problems],
        "cases": [records[case.name] for case in kept],
    }


def _missing_parts(plan: Plan, kept: list[SourceCase], records: dict[str, dict]) -> list[str]:
    """Notes about labels that no case has, and about a validation split that lost all its cases."""
    labels = {label for case in kept for label in records[case.name]["voxels"]}
    notes = [f"no case has the label {name}" for name, label in plan.labels.items() if str(label) not in labels]
    splits = {case.split for case in kept}
    num_training = sum(case.split != "test" for case in kept)
    if "val" not in splits and num_training < _NUM_FOLDS:
        notes.append(f"nnU-Net cannot make its five folds of {num_training} training cases; assign some to val")
    elif "val" not in splits and "val" in {case.split for case in plan.cases}:
        notes.append("no validation case is kept; nnU-Net makes its own five folds of the training cases")
    return notes


def _repeated_images(kept: list[SourceCase], records: dict[str, dict]) -> list[str]:
    """A note if several cases have the same image, because a test with images of the training is none."""
    by_content: dict[tuple[str, ...], list[SourceCase]] = {}
    for case in kept:
        content = tuple(file["sha256"] for file in records[case.name]["source"][: len(case.image)])
        by_content.setdefault(content, []).append(case)
    repeated = [cases for cases in by_content.values() if len(cases) > 1]
    if not repeated:
        return []
    repeated.sort(key=lambda cases: len({case.split for case in cases}), reverse=True)  # the worst is the example
    example = " and ".join(f"{case.name} ({case.split})" for case in repeated[0][:2])
    return [f"{sum(map(len, repeated))} cases have the same image as another, such as {example}"]


def _complete(folder: Path, plan: Plan, kept: list[SourceCase], manifest: dict) -> None:
    """Write everything except the cases; remove files of an interrupted run and of cases that cannot be used."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for case in set(plan.cases) - set(kept):
        for path in _case_paths(folder, case, plan.reader.ending):
            path.unlink(missing_ok=True)
    training = [case for case in kept if case.split != "test"]
    description = {
        "name": plan.name, "description": plan.title,
        "channel_names": {str(i): name for i, name in enumerate(plan.channel_names)},
        "labels": plan.labels, "numTraining": len(training), "file_ending": plan.reader.ending,
    }  # fmt: skip
    for reader in {record.get("nnunet_reader") for record in manifest["cases"]} - {None}:
        description["overwrite_image_reader_writer"] = reader
    write_atomic(folder / "dataset.json", json.dumps(description, indent=2) + "\n")
    folds = make_folds({case.name: case.split for case in kept})
    if folds:
        write_atomic(folder / "splits_final.json", json.dumps(folds, indent=1) + "\n")
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    with_foreground = {record["case"] for record in manifest["cases"] if record["voxels"].keys() - {"0"}}
    candidates = [case for case in kept if case.name in with_foreground] or training
    previews = []
    for case in choose_evenly(sorted(candidates, key=lambda case: case.name), COLUMNS * ROWS):
        previews.append((case.name, *plan.reader.load_preview(*_case_paths(folder, case, plan.reader.ending))))
    save_preview(previews, plan.labels, f"{plan.title}: {manifest['split']}", folder / "preview.png")
