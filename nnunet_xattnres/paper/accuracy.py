"""The accuracy tables of the paper, as data."""

import csv
from dataclasses import dataclass
from importlib.resources import files

TITLES = {
    1: "Synapse, multi-organ CT",
    2: "binary sets, with sizes",
    3: "skip connections against XAttnRes",
    4: "where XAttnRes is applied, U-Net",
    5: "start of the pseudo-query, U-Net",
}
"""What the tables show, by their number."""


@dataclass(frozen=True)
class Published:
    """One printed figure; Dice (DSC) and mIoU in %.

    HD95 is printed as mm but follows a protocol that leaves the spacing out, so it is in voxels.
    """

    table: int
    method: str
    metric: str
    value: float


def published(table: int | None = None) -> list[Published]:
    """Every figure of Tables 1 to 5 of arXiv 2604.03297, or of one of them, row by row; gaps are left out."""
    return [
        Published(number, row["method"], metric, float(value))
        for number in ([table] if table else TITLES)
        for row in csv.DictReader((files(__package__) / "tables" / f"table{number}.csv").read_text().splitlines())
        for metric, value in row.items()
        if metric != "method" and value
    ]
