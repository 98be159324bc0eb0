"""Reads the results of a benchmark from nnU-Net's folders and scores the predictions."""

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...evaluation.label_maps import has_spacing
from ...evaluation.labels import read_labels
from ...utils.errors import UserError
from ..folders import NnUNetFolders
from ..grid import Grid
from ..log import read_debug, read_logs
from ..state import RECORD, State, read_experiment_plans, read_splits, read_state
from ..tasks import Predict, find_test_cases, predict_tasks
from .fairness import find_warnings
from .results import Finding, Results, TrainedRun, score_table
from .scores import Predictions, ScoredFolder, score


def read_results(grid: Grid, folders: NnUNetFolders, workers: int) -> list[Results]:
    """Read and score everything that is finished; the rest is listed in `Results.missing`."""
    everything = []
    for experiment in grid.experiments():
        results = Results(experiment, grid.trainers, grid.baseline)
        _read_validation(results, grid, folders, workers)
        results.warnings += find_warnings(results)
        everything.append(results)
    for results in everything:
        tasks = [task for task in predict_tasks(grid) if task.runs[0].experiment == results.experiment]
        _read_test(results, tasks, folders, workers)
    return everything


def _read_validation(results: Results, grid: Grid, folders: NnUNetFolders, workers: int) -> None:
    experiment, missing = results.experiment, results.missing
    try:
        reader = read_experiment_plans(experiment, folders).get("image_reader_writer")
        splits = read_splits(experiment, folders)
    except UserError as error:
        missing.append(Finding("unreadable", str(error)))
        return
    if splits is None:
        path = folders.preprocessed_dataset(experiment) / "splits_final.json"
        missing.append(Finding("no splits", f"{path}, which nnU-Net writes when it trains"))
        return
    done = []
    for run in grid.runs(experiment):
        if run.fold >= len(splits):
            missing.append(Finding("no such fold", f"{run.short_name}: splits_final.json has {len(splits)} folds"))
            continue
        state = read_state(run, folders)
        missing += [Finding("broken file", f"{run.short_name}: {problem}") for problem in state.problems]
        if state.stage == "done":
            done.append(run)
        else:
            missing.append(Finding(state.stage, f"{run.short_name}: {_describe(state)}"))
    if not done:
        return
    preprocessed, references = folders.preprocessed_dataset(experiment), folders.references(experiment)
    try:
        dataset_json = _find_dataset_json(p / "dataset.json" for p in (preprocessed, *map(folders.model, done)))
        predictions = [
            Predictions(
                folders.validation(run), references, dataset_json, tuple(sorted(splits[run.fold]["val"])), reader=reader
            )
            for run in done
        ]
        results.unit = _unit(predictions[0])
    except UserError as error:
        missing.append(Finding("unreadable", str(error)))
        return
    rows = []
    everything = score(predictions, workers)
    for run, scored in zip(done, everything, strict=True):
        missing += [Finding("not scored", f"{run.short_name}: {problem}") for problem in scored.problems]
        if scored.scores:
            fold = folders.fold(run)
            results.trained.append(TrainedRun(run, read_logs(fold), read_debug(fold), read_attempts(fold)))
            rows.append((run.trainer, run.repeat, run.fold, scored.scores))
    results.validation = score_table(rows)
    results.warnings += _find_notes(everything)


def _unit(predictions: Predictions) -> str:
    return "mm" if has_spacing(predictions.evaluation().reader) else "voxels"


def _find_notes(everything: Sequence[ScoredFolder]) -> list[Finding]:
    """A finding if label maps were not read as they are stored; trainers share the references."""
    notes = list(dict.fromkeys(note for scored in everything for note in scored.notes))
    if not notes:
        return []
    count = "1 label map was" if len(notes) == 1 else f"{len(notes)} label maps were"
    return [Finding("replaced values", f"{count} not scored as stored: {notes[0]}{' ...' * (len(notes) > 1)}")]


def _find_dataset_json(paths: Iterable[Path]) -> Path:
    """The first readable dataset.json: one for all trainers, so that labels have the same names.

    Raises:
        UserError: if none is readable; the reason is that of the first one.
    """
    errors = []
    for path in paths:
        try:
            read_labels(path)
            return path
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _describe(state: State) -> str:
    if state.stage == "to train":
        return "not trained"
    if state.stage == "to validate":
        return "trained, but not validated"
    if state.stage == "different splits":
        return "left out, because its validation cases differ from those of this fold in splits_final.json"
    return f"{state.epochs} of {state.num_epochs or 'an unknown number of'} epochs trained"


def read_attempts(fold: Path) -> list[dict]:
    """The records of `xattnres benchmark run` for a fold; lines that a kill has cut off are left out."""
    attempts = []
    try:
        lines = (fold / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            attempt = json.loads(line)
        except ValueError:
            continue
        if isinstance(attempt, dict):
            attempts.append(attempt)
    return attempts


def _read_test(results: Results, tasks: Sequence[Predict], folders: NnUNetFolders, workers: int) -> None:
    references, dataset_json = (folders.raw_dataset(results.experiment) / name for name in ("labelsTs", "dataset.json"))
    if not references.is_dir():
        return
    try:
        cases = tuple(find_test_cases(results.experiment, folders))
        reader = None
        with contextlib.suppress(UserError):  # `missing` lists unreadable plans already
            reader = read_experiment_plans(results.experiment, folders).get("image_reader_writer")
        common = Predictions(folders.results, references, dataset_json, cases, reader=reader)
        results.unit = _unit(common)
    except UserError as error:
        results.missing.append(Finding("unreadable", str(error)))
        return
    done = [task for task in tasks if cases and task.is_done(folders)]
    for task in done:
        if task.is_outdated(folders):
            text = "test cases were predicted before a fold was trained again; `run --test` repeats the prediction"
            results.missing.append(Finding("outdated", f"{task.runs[0].trainer}: {text}"))
    for protocol in ("default", "published"):
        predictions = [replace(common, folder=task.folder(folders), protocol=protocol) for task in done]
        rows = []
        everything = score(predictions, workers)
        for task, scored in zip(done, everything, strict=True):
            trainer, repeat = task.runs[0].trainer, task.runs[0].repeat
            rows.append((trainer, repeat, "together", scored.scores))
            if protocol == "default":
                results.missing += [Finding("not scored", f"{trainer}, test: {problem}") for problem in scored.problems]
        results.test[protocol] = score_table(rows)
        if protocol == "default":
            results.warnings += _find_notes(everything)
