"""The result of an evaluation: scores and their means as a table, as JSON and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..utils.tables import format_table
from .metrics import METRICS
from .protocols import Scores

OVERLAP_METRICS = ("dice", "iou", "surface_dice")
"""The metrics between 0 and 1, which are printed in %. The others are distances."""

Means = dict[str, float | int | None]
"""The mean of every metric, None where no value is defined, and the number of values behind it, such as `dice_n`."""

_NUM_LOWEST = 3


@dataclass(frozen=True)
class Report:
    """The scores of every case and region.

    Attributes:
        scores: the scores by case, then by region.
        metadata: protocol, tolerance, unit of the distances, folders.
        problems: one line for every case that could not be compared.
        extra_regions: regions besides those of the dataset. The overall mean leaves them out.
        notes: one line for every file whose values or header were read differently from what is stored.
    """

    scores: Mapping[str, Mapping[str, Scores]]
    metadata: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)
    extra_regions: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)

    @property
    def regions(self) -> list[str]:
        return list(next(iter(self.scores.values()), {}))

    def mean(self, region: str) -> Means:
        """The mean of every metric over the cases in which it is defined, and the number of these cases."""
        return _means(case[region] for case in self.scores.values())

    def overall(self) -> Means:
        """The mean over regions of their means over cases, as published tables average, and the number of regions.

        >>> scores = {"a": {"x": dict.fromkeys(METRICS, 1.0), "y": dict.fromkeys(METRICS, None)},
        ...           "b": {"x": dict.fromkeys(METRICS, 0.5), "y": dict.fromkeys(METRICS, 0.25)}}
        >>> report = Report(scores, {})
        >>> report.overall()["dice"]  # (0.75 + 0.25) / 2
        0.5
        """
        return _means(self.mean(region) for region in self.regions if region not in self.extra_regions)

    def table(self) -> str:
        """The means by region as aligned text. If a mean counts fewer cases than there are, it says how many."""
        unit = self.metadata["unit"]
        head = [""] + [f"{name} {'%' if metric in OVERLAP_METRICS else unit}" for metric, name in METRICS.items()]
        rows = [[region, *_cells(self.mean(region), len(self.scores))] for region in self.regions]
        num_averaged = len(self.regions) - len(self.extra_regions)
        if num_averaged > 1:
            rows.append(["mean", *_cells(self.overall(), num_averaged)])
        return format_table([head, *rows])

    def lowest_dice(self) -> list[tuple[str, str, float]]:
        """(case, region, Dice) of the three lowest values of Dice, the lowest first."""
        dice = [(c, r, d) for c, case in self.scores.items() for r, s in case.items() if (d := s["dice"]) is not None]
        return sorted(dice, key=lambda entry: entry[2])[:_NUM_LOWEST]

    def to_dict(self) -> dict[str, Any]:
        """Everything for JSON. Undefined values are None."""
        return {
            **self.metadata,
            "mean": {region: self.mean(region) for region in self.regions},
            "overall": self.overall(),
            "cases": self.scores,
            "problems": self.problems,
            "notes": self.notes,
        }

    def to_csv(self) -> str:
        """One row per case and region. Undefined values are empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["case", "region", *METRICS], lineterminator="\n")
        writer.writeheader()
        for case, regions in self.scores.items():
            writer.writerows({"case": case, "region": region, **scores} for region, scores in regions.items())
        return text.getvalue()


def _means(rows: Iterable[Mapping[str, float | int | None]]) -> Means:
    rows, means = list(rows), {}
    for metric in METRICS:
        values = [value for row in rows if (value := row[metric]) is not None]
        means[metric] = float(np.mean(values)) if values else None
        means[f"{metric}_n"] = len(values)
    return means


def _cells(means: Means, num_total: int) -> list[str]:
    cells = []
    for metric in METRICS:
        value, count = means[metric], means[f"{metric}_n"]
        text = "undefined" if value is None else f"{100 * value:.2f}" if metric in OVERLAP_METRICS else f"{value:.3f}"
        cells.append(text if value is None or count == num_total else f"{text} (of {count})")
    return cells
