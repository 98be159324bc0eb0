"""Scores of every predicted case, computed once and kept beside the predictions."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...evaluation.folders import CaseEvaluator, Problem, read_labels
from ...evaluation.protocols import Scores
from ...utils.errors import UserError
from ...utils.files import write_atomic
from ...utils.workers import map_unordered

TOLERANCE = 1.0
"""Of the surface Dice: mm, or voxels in the published protocol."""

CaseScores = dict[str, dict[str, Scores]]
"""Scores by case, then region."""


@dataclass(frozen=True)
class Predictions:
    """A folder of predicted label maps and what belongs to it.

    Attributes:
        folder: of the predictions.
        references: folder of the reference label maps.
        dataset_json: says the labels.
        cases: to be scored.
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

    def cache(self) -> Path:
        # not in the folder itself, which is nnU-Net's
        return self.folder.parent / f"{self.folder.name}_scores_{self.protocol}.json"

    def key(self) -> str:
        """Changes whenever a file or what is made of it does."""
        evaluation = self.evaluation()
        labels = evaluation.labels
        said = [repr((__version__, labels.regions, labels.ignore, labels.reader, self.protocol, TOLERANCE, self.cases))]
        for folder in (self.folder, self.references):
            for case in self.cases:
                file = folder / f"{case}{evaluation.labels.ending}"
                stat = file.stat() if file.exists() else None
                said.append(f"{file.name} {stat and (stat.st_size, stat.st_mtime_ns)}")
        return hashlib.sha256("\n".join(said).encode()).hexdigest()


@dataclass(frozen=True)
class CaseJob:
    """One case of one folder, for a worker process."""

    folder_index: int
    case: str


@dataclass(frozen=True)
class CaseScorer:
    evaluations: tuple[CaseEvaluator, ...]

    def __call__(self, one: CaseJob) -> dict[str, Scores] | Problem:
        return self.evaluations[one.folder_index](one.case)


def score(folders: Sequence[Predictions], workers: int) -> list[tuple[CaseScores, list[str]]]:
    """Scores of every folder, and one line for every case that has none.

    Args:
        folders: what to score.
        workers: processes.

    Raises:
        UserError: if a dataset.json cannot be read.
    """
    results: list[tuple[CaseScores, list[str]] | None] = [_read(folder) for folder in folders]
    todo = [i for i, result in enumerate(results) if result is None]
    if todo:
        work = CaseScorer(tuple(folders[i].evaluation() for i in todo))
        keys = [folders[i].key() for i in todo]  # of what is read now, whatever lies there afterwards
        ones = [CaseJob(index, case) for index, i in enumerate(todo) for case in folders[i].cases]
        found = dict(map_unordered(work, ones, workers, "scoring"))
        for index, i in enumerate(todo):
            answers = {case: found[CaseJob(index, case)] for case in folders[i].cases}
            scores = {case: answer for case, answer in answers.items() if not isinstance(answer, Problem)}
            problems = [str(answer) for answer in answers.values() if isinstance(answer, Problem)]
            results[i] = scores, problems
            if not problems:  # which may pass without a file's change
                _write(folders[i], keys[index], scores)
    return results


def _read(folder: Predictions) -> tuple[CaseScores, list[str]] | None:
    try:
        kept = json.loads(folder.cache().read_text())
        return (kept["scores"], []) if kept["key"] == folder.key() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(folder: Predictions, key: str, scores: Mapping) -> None:
    content = {"protocol": folder.protocol, "key": key, "scores": scores}
    with contextlib.suppress(UserError):  # results that may only be read are scored again next time
        write_atomic(folder.cache(), json.dumps(content, indent=1) + "\n")
