"""The accuracy tables of the paper, as data."""

import csv
from dataclasses import dataclass
from importlib.resources import files

TITLES = {
    1: "Synapse, multi-organ CT",
    2: "polyps and skin lesions, with network sizes",
    3: "skip connections against XAttnRes",
    4: "where XAttnRes is applied, U-Net",
    5: "initialisation of the pseudo-query, U-Net",
}
"""Titles of the tables by their number."""


@dataclass(frozen=True)
class PublishedFigure:
    """One published figure; Dice (DSC) and mIoU are in %.

    The paper prints HD95 in mm, but its protocol ignores the voxel spacing, so the unit is voxels.
    """

    table: int
    method: str
    metric: str
    value: float


def published(table: int | None = None) -> list[PublishedFigure]:
    """The figures of Tables 1 to 5 of arXiv 2604.03297, row by row, without empty cells.

    Args:
        table: number of one table, None for all.
    """
    return [
        PublishedFigure(number, row["method"], metric, float(value))
        for number in ([table] if table else TITLES)
        for row in csv.DictReader(
            (files(__package__) / "tables" / f"table{number}.csv").read_text(encoding="utf-8").splitlines()
        )
        for metric, value in row.items()
        if metric != "method" and value
    ]
