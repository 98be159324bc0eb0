"""Everything that a report says, before it is text."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...utils.errors import UserError
from ..folders import NnUNetFolders
from ..grid import ExperimentKey, Grid
from .analysis import PairedComparison, compare_all
from .results import Results
from .sizes import Size, measure


@dataclass
class ReportData:
    """What is compared, and what came of it.

    Attributes:
        grid, folders: of the benchmark.
        results: by dataset, configuration and plans.
        primary: mean Dice of every trainer against the baseline; verdicts rest on it.
        secondary: single labels and HD95, for looking at.
        sizes: of networks by experiment and trainer; a text says why there is none.
    """

    grid: Grid
    folders: NnUNetFolders
    results: Sequence[Results]
    primary: list[PairedComparison] = field(default_factory=list)
    secondary: list[PairedComparison] = field(default_factory=list)
    sizes: dict[tuple[ExperimentKey, str], Size | str] = field(default_factory=dict)


def analyse(grid: Grid, folders: NnUNetFolders, results: Sequence[Results]) -> ReportData:
    """Compare every trainer with the baseline, and count the networks."""
    content = ReportData(grid, folders, results, primary=compare_all(results))
    for metric in ("dice", "hd95"):
        content.secondary += compare_all(results, metric, by_region=True)
    for found in results:
        for trainer in found.trainers:
            if found.of(trainer):
                try:
                    content.sizes[found.experiment, trainer] = measure(found.experiment, trainer, folders)
                except UserError as error:
                    content.sizes[found.experiment, trainer] = str(error)
    return content


def epoch_seconds(results: Results, trainer: str) -> float | None:
    """Median over all epochs of all trainings."""
    seconds = [value for trained in results.of(trainer) for value in trained.log.series("seconds")[1]]
    return statistics.median(seconds) if seconds else None


def peak_memory(results: Results, trainer: str) -> int | None:
    """Bytes, the most of any training: of the GPU, else of the largest process; None if nobody recorded it."""
    attempts = [attempt for trained in results.of(trainer) for attempt in trained.attempts]
    for key in ("peak_gpu_memory_bytes", "peak_memory_bytes"):
        if found := [attempt[key] for attempt in attempts if isinstance(attempt.get(key), int)]:
            return max(found)
    return None
