"""What an evaluation says: means that tell how many cases they count, as text, JSON and CSV."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..utils.tables import format_table
from .metrics import METRICS
from .protocols import Scores

OVERLAP_METRICS = ("dice", "iou", "surface_dice")
_WORST = 3


@dataclass(frozen=True)
class Report:
    """The scores of every case and region, and how they came about.

    Attributes:
        scores: by case, then region.
        about: protocol, tolerance, unit of distance, folders.
        problems: what could not be compared, one line each.
        added: regions that the user asked for beside the dataset's; the overall mean leaves them out.
    """

    scores: Mapping[str, Mapping[str, Scores]]
    about: Mapping[str, object]
    problems: list[str] = field(default_factory=list)
    added: frozenset[str] = frozenset()

    @property
    def regions(self) -> list[str]:
        return list(next(iter(self.scores.values()), {}))

    def mean(self, region: str) -> dict[str, float | int | None]:
        """Mean of every score over the cases where it is defined, and how many these are (`dice_n`, ...)."""
        row = {}
        for metric in METRICS:
            values = [s for case in self.scores.values() if (s := case[region][metric]) is not None]
            row[metric] = float(np.mean(values)) if values else None
            row[f"{metric}_n"] = len(values)
        return row

    def overall(self) -> dict[str, float | int | None]:
        """Mean over regions of the means over cases, and how many regions it counts: the order of published tables."""
        means = [self.mean(region) for region in self.regions if region not in self.added]
        row = {}
        for metric in METRICS:
            values = [mean[metric] for mean in means if mean[metric] is not None]
            row[metric] = float(np.mean(values)) if values else None
            row[f"{metric}_n"] = len(values)
        return row

    def table(self) -> str:
        """Means per region as aligned text; where a mean counts fewer cases than there are, it says so."""
        unit = self.about["unit"]
        head = [""] + [f"{name} {'%' if metric in OVERLAP_METRICS else unit}" for metric, name in METRICS.items()]
        rows = [[region, *_cells(self.mean(region), len(self.scores))] for region in self.regions]
        averaged = len(self.regions) - len(self.added)
        if averaged > 1:
            rows.append(["mean", *_cells(self.overall(), averaged)])
        return format_table([head, *rows])

    def worst(self) -> list[tuple[str, str, float]]:
        """Case, region and Dice of the lowest ones, which are worth looking at first."""
        dice = [(c, r, s["dice"]) for c, case in self.scores.items() for r, s in case.items() if s["dice"] is not None]
        return sorted(dice, key=lambda entry: entry[2])[:_WORST]

    def document(self) -> dict:
        """All of it for JSON; what is not defined is null."""
        return {
            **self.about,
            "mean": {region: self.mean(region) for region in self.regions},
            "overall": self.overall(),
            "cases": self.scores,
            "problems": self.problems,
        }

    def csv(self) -> str:
        """One row per case and region; what is not defined is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["case", "region", *METRICS], lineterminator="\n")
        writer.writeheader()
        for case, regions in self.scores.items():
            writer.writerows({"case": case, "region": region, **scores} for region, scores in regions.items())
        return text.getvalue()


def _cells(means: Mapping[str, float | int | None], all_of_them: int) -> list[str]:
    cells = []
    for metric in METRICS:
        value, counted = means[metric], means[f"{metric}_n"]
        text = "undefined" if value is None else f"{100 * value:.2f}" if metric in OVERLAP_METRICS else f"{value:.3f}"
        cells.append(text if value is None or counted == all_of_them else f"{text} (of {counted})")
    return cells
