"""What lies in nnU-Net's folders of a benchmark: scores, curves and costs, what is missing, and what is unfair."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...evaluation.folders import read_labels
from ...utils.errors import UserError
from ..folders import NnUNetFolders
from ..grid import ExperimentKey, Grid, Run
from ..log import Debug, Log, read_debug, read_logs
from ..state import RECORD, State, read_plans, read_splits, read_state
from ..tasks import Predict, find_test_cases, predict_tasks
from .scores import CaseScores, Predictions, score


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        scores: of its validation cases.
        log, debug: what nnU-Net wrote.
        attempts: what `xattnres benchmark run` recorded; empty for a training by hand.
    """

    run: Run
    scores: CaseScores
    log: Log
    debug: Debug
    attempts: list[dict]


@dataclass
class Results:
    """Everything about one dataset, configuration and plans.

    Attributes:
        experiment, trainers, baseline: what is compared.
        trained: finished trainings.
        missing: one line for everything that is not there.
        warnings: one line for everything that makes the comparison unfair, or worth little.
        test: scores of test cases by trainer and repeat, in the default and the published protocol.
        unit: of distances, by the default protocol.
    """

    experiment: ExperimentKey
    trainers: Sequence[str]
    baseline: str
    trained: list[Trained] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    test: dict[str, dict[tuple[str, int], CaseScores]] = field(default_factory=dict)
    unit: str = "mm"

    def of(self, trainer: str) -> list[Trained]:
        return [t for t in self.trained if t.run.trainer == trainer]

    def shared(self) -> set[tuple[int, int]]:
        """(repeat, fold) that every trainer with any finished training has finished."""
        finished = [{(t.run.repeat, t.run.fold) for t in self.of(name)} for name in self.trainers if self.of(name)]
        return set.intersection(*finished) if finished else set()


def read_results(grid: Grid, folders: NnUNetFolders, workers: int) -> list[Results]:
    """Read everything of a benchmark, and score what nobody has.

    Whatever cannot be read is left out and named in `missing`.
    """
    found = [_read_experiment(experiment, grid, folders, workers) for experiment in grid.experiments()]
    predictions = list(predict_tasks(grid))
    for results in found:
        mine = [task for task in predictions if task.runs[0].experiment == results.experiment]
        _read_test(results, mine, folders, workers)
    return found


def _read_experiment(experiment: ExperimentKey, grid: Grid, folders: NnUNetFolders, workers: int) -> Results:
    results = Results(experiment, grid.trainers, grid.baseline)
    try:
        read_plans(experiment, folders)
        splits = read_splits(experiment, folders)
    except UserError as error:
        results.missing.append(str(error))
        return results
    if splits is None:
        path = folders.preprocessed_dataset(experiment) / "splits_final.json"
        results.missing.append(f"{path}, which nnU-Net makes when it trains")
        return results
    done = []
    for run in grid.runs(experiment):
        if run.fold >= len(splits):
            results.missing.append(f"{run.trainer}, fold {run.fold}: splits_final.json has only {len(splits)} folds")
            continue
        state = read_state(run, folders)
        results.missing += [f"{run.short_name}: {problem}" for problem in state.problems]
        if state.stage == "done":
            done.append(run)
        else:
            results.missing.append(f"{run.short_name}: {_left(state)}")
    description = _description(experiment, done, folders)
    predictions = [
        Predictions(
            folders.validation(run), folders.references(experiment), description, tuple(sorted(splits[run.fold]["val"]))
        )
        for run in done
    ]
    for run, (scores, problems) in zip(done, _score(predictions, results, workers), strict=True):
        results.missing += [f"{run.short_name}: {problem}" for problem in problems]
        if scores:
            fold = folders.fold(run)
            results.trained.append(Trained(run, scores, read_logs(fold), read_debug(fold), read_attempts(fold)))
    results.warnings += [*unfair(results), *collapsed(results)]
    return results


def _description(experiment: ExperimentKey, runs: Sequence[Run], folders: NnUNetFolders) -> Path:
    """The dataset.json for all of them, so that labels have one name: the prepared one, else a model's."""
    prepared = folders.preprocessed_dataset(experiment) / "dataset.json"
    for path in (prepared, *(folders.model(run) / "dataset.json" for run in runs)):
        try:
            read_labels(path)
            return path
        except UserError:
            continue
    return prepared


def _score(folders: list[Predictions], results: Results, workers: int) -> list[tuple[CaseScores, list[str]]]:
    """As `score`, with a folder whose labels cannot be read among the problems."""
    readable = []
    for folder in folders:
        try:
            labels = folder.evaluation().labels
            results.unit = "mm" if labels.has_spacing else "voxels"
            readable.append(folder)
        except UserError as error:
            if str(error) not in results.missing:
                results.missing.append(str(error))
    found = dict(zip(readable, score(readable, workers), strict=True))
    return [found.get(folder, ({}, [])) for folder in folders]


def _left(state: State) -> str:
    if state.stage == "to train":
        return "not trained"
    if state.stage == "to validate":
        return "trained, but not validated"
    if state.stage == "different splits":
        return "validated on other cases than splits_final.json has for this fold: left out"
    of = f" of {state.num_epochs}" if state.num_epochs else ""
    return f"stands at epoch {state.epochs}{of}"


def read_attempts(fold: Path) -> list[dict]:
    """What was recorded of the commands that ran for a fold; torn lines are left out."""
    attempts = []
    try:
        lines = (fold / RECORD).read_text(errors="replace").splitlines()
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
    references, description = (folders.raw_dataset(results.experiment) / name for name in ("labelsTs", "dataset.json"))
    if not references.is_dir():
        return
    try:
        read_labels(description)
        cases = tuple(find_test_cases(results.experiment, folders))
    except UserError as error:
        results.missing.append(str(error))
        return
    there = [task for task in tasks if cases and task.is_done(folders)]
    results.missing += [
        f"{task.runs[0].trainer}, test: predicted before a fold was trained anew; `run --test` predicts again"
        for task in there
        if task.is_outdated(folders)
    ]
    for protocol in ("default", "published"):
        predictions = [Predictions(task.folder(folders), references, description, cases, protocol) for task in there]
        for task, (scores, problems) in zip(there, _score(predictions, results, workers), strict=True):
            run = task.runs[0]
            results.missing += [f"{run.trainer}, test: {problem}" for problem in problems if protocol == "default"]
            results.test.setdefault(protocol, {})[run.trainer, run.repeat] = scores


MUST_AGREE = {
    "epochs": "epochs",
    "iterations": "iterations an epoch",
    "batch_size": "batch size",
    "configuration": "the plans' configuration (patch size, network, ...)",
    "device": "device",
    "torch": "PyTorch",
}


def collapsed(results: Results) -> list[str]:
    """One line for every trainer whose networks find hardly anything: what is compared with it says little."""
    lines = []
    for trainer in results.trainers:
        cases = [scores.values() for trained in results.of(trainer) for scores in trained.scores.values()]
        best = [max(dice) for case in cases if (dice := [s["dice"] for s in case if s["dice"] is not None])]
        missed = sum(dice < _HARDLY for dice in best)
        if missed > len(best) / 2:
            percent = f"{100 * _HARDLY:g} %"
            lines.append(
                f"{trainer} has hardly learned: Dice below {percent} in {missed} of {len(best)} cases; train longer"
            )
    return lines


_HARDLY = 0.01


def unfair(results: Results) -> list[str]:
    """One line for everything in which the trainings of an experiment differ though they should not."""
    lines = []
    for name, title in MUST_AGREE.items():
        by_value: dict[str, set[str]] = {}
        by_fold: dict[tuple[int, int], set[str]] = {}
        for trained in results.trained:
            value = str(getattr(trained.debug, name) or "unknown")
            by_value.setdefault(value, set()).add(trained.run.trainer)
            by_fold.setdefault((trained.run.repeat, trained.run.fold), set()).add(value)
        if any(len(values) > 1 for values in by_fold.values()):
            shown = _in_what(list(by_value)) if name == "configuration" else {value: value for value in by_value}
            said = [f"{shown[value]} ({', '.join(sorted(who))})" for value, who in sorted(by_value.items())]
            lines.append(f"{title} differ between trainings: {'; '.join(said)}")
    for trained in results.trained:
        seconds = trained.log.series("train_loss")[0]
        wanted = trained.debug.epochs
        if wanted and len(seconds) < wanted:
            lines.append(f"{trained.run.short_name}: the logs have {len(seconds)} of {wanted} epochs")
    counts = {name: len(results.of(name)) for name in results.trainers if results.of(name)}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        lines.append(
            f"not equally many trainings ({said}): means are of folds that all have finished, each comparison of those "
            "that both have"
        )
    seen: dict[tuple, int] = {}
    for trained in results.trained:
        for case in trained.scores:
            key = (trained.run.trainer, trained.run.repeat, case)
            seen[key] = seen.get(key, 0) + 1
    if twice := {case for (_, _, case), times in seen.items() if times > 1}:
        lines.append(f"{len(twice)} cases are validated in more than one fold: they count once, with their mean")
    return lines


def _in_what(configurations: list[str]) -> dict[str, str]:
    """Of each configuration the entries in which they are not all alike."""
    try:
        read = [ast.literal_eval(text) for text in configurations]
        keys = sorted({key for one in read for key in one if any(other.get(key) != one[key] for other in read)})
        return {
            text: ", ".join(f"{key} {one.get(key)}" for key in keys)
            for text, one in zip(configurations, read, strict=True)
        }
    except (ValueError, SyntaxError, AttributeError):
        return {text: text if len(text) <= 40 else text[:37] + "..." for text in configurations}
