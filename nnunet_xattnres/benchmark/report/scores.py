"""Scores of predicted cases, computed once and cached beside the predictions."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ... import __version__
from ...evaluation.folders import CaseEvaluator, ScoringProblem, read_labels
from ...evaluation.protocols import Scores
from ...utils.errors import UserError
from ...utils.files import write_atomic
from ...utils.workers import map_unordered

TOLERANCE = 1.0
"""Tolerance of the surface Dice in mm; in voxels for the published protocol."""

CaseScores = dict[str, dict[str, Scores]]
"""Scores by case and region."""


@dataclass(frozen=True)
class Predictions:
    """A folder of predicted label maps and what is needed to score them.

    Attributes:
        folder: the predicted label maps.
        references: folder of the reference label maps.
        dataset_json: file that defines the labels.
        cases: names of the cases to score.
        protocol: a name in `PROTOCOLS`.
    """

    folder: Path
    references: Path
    dataset_json: Path
    cases: tuple[str, ...]
    protocol: str = "default"

    def evaluation(self) -> CaseEvaluator:
        labels = read_labels(self.dataset_json)
        return CaseEvaluator(self.folder, self.references, labels, labels.regions, self.protocol, TOLERANCE)

    def cache_file(self) -> Path:
        # beside the folder: the folder itself belongs to nnU-Net
        return self.folder.parent / f"{self.folder.name}_scores_{self.protocol}.json"

    def cache_key(self) -> str:
        """A hash of everything that the scores depend on: files by size and time, labels, protocol, version."""
        labels = self.evaluation().labels
        options = (__version__, labels.regions, labels.ignore, labels.reader, self.protocol, TOLERANCE, self.cases)
        parts = [repr(options)]
        for folder in (self.folder, self.references):
            for case in self.cases:
                file = folder / f"{case}{labels.ending}"
                stat = file.stat() if file.exists() else None
                parts.append(f"{file.name} {stat and (stat.st_size, stat.st_mtime_ns)}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def score(folders: Sequence[Predictions], workers: int) -> list[tuple[CaseScores, list[ScoringProblem]]]:
    """Score the cases of every folder, or read their scores from the cache.

    Args:
        folders: the predictions.
        workers: number of processes.

    Returns:
        For every folder, the scores, and the cases that cannot be scored.

    Raises:
        UserError: if a dataset.json cannot be read.
    """
    cached = {folder: _read_cache(folder) for folder in folders}
    results: dict[Predictions, tuple[CaseScores, list[ScoringProblem]]]
    results = {folder: (scores, []) for folder, scores in cached.items() if scores is not None}
    todo = [folder for folder in folders if folder not in results]
    keys = [folder.cache_key() for folder in todo]  # before scoring: files may be replaced while they are scored
    jobs = [(index, case) for index, folder in enumerate(todo) for case in folder.cases]
    score_case = partial(_score_case, tuple(folder.evaluation() for folder in todo))
    outcomes = dict(map_unordered(score_case, jobs, workers, "scoring")) if jobs else {}
    for index, (folder, key) in enumerate(zip(todo, keys, strict=True)):
        by_case = {case: outcomes[index, case] for case in folder.cases}
        scores = {case: outcome for case, outcome in by_case.items() if not isinstance(outcome, ScoringProblem)}
        problems = [outcome for outcome in by_case.values() if isinstance(outcome, ScoringProblem)]
        results[folder] = scores, problems
        if not problems:  # a problem such as missing permissions may be solved without a change of the files
            _write_cache(folder, key, scores)
    return [results[folder] for folder in folders]


def _score_case(evaluations: Sequence[CaseEvaluator], job: tuple[int, str]) -> dict[str, Scores] | ScoringProblem:
    index, case = job
    return evaluations[index](case)


def _read_cache(folder: Predictions) -> CaseScores | None:
    try:
        cache = json.loads(folder.cache_file().read_text())
        return cache["scores"] if cache["key"] == folder.cache_key() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(folder: Predictions, key: str, scores: Mapping) -> None:
    cache = {"protocol": folder.protocol, "key": key, "scores": scores}
    with contextlib.suppress(UserError):  # without write access, cases are scored again next time
        write_atomic(folder.cache_file(), json.dumps(cache, indent=1) + "\n")
