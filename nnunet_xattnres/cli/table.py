"""xattnres table: print the sizes of the paper's networks beside the published figures.

It prints the parameters and the multiply-adds at 256x256 of every network of the paper as implemented here, the
published figures and the difference. With --published it prints the accuracy tables of the paper instead.

examples:
  xattnres table                      sizes as text, with remarks on how they are counted
  xattnres table --csv > sizes.csv    for a spreadsheet
  xattnres table --published --json   Tables 1 to 5 of the paper, one entry per figure
"""

import argparse
import csv
import json
import sys
import textwrap
from dataclasses import asdict

from ..utils.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--published", action="store_true", help="print the accuracy tables of the paper instead")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--csv", action="store_true", help="print comma-separated values")


def run(arguments: argparse.Namespace) -> int:
    if arguments.published:
        from ..paper.accuracy import published

        records = [asdict(figure) for figure in published()]
    else:
        from ..paper.sizes import REMARKS, sizes

        counted = sizes()
        differences = ("parameters_difference_m", "gmacs_difference")
        records = [asdict(size) | {name: getattr(size, name) for name in differences} for size in counted]
    if arguments.json:
        print(json.dumps(records if arguments.published else {"networks": records, "remarks": REMARKS}, indent=1))
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    else:
        print(_format_published() if arguments.published else _format_sizes(counted))
    return 0


def _format_sizes(counted) -> str:
    from ..paper.sizes import REMARKS, SIDE

    head = ["", "parameters", "paper", "difference", f"GMACs at {SIDE}x{SIDE}", "paper", "difference", "attention"]
    rows = [
        [
            s.network,
            f"{s.parameters / 1e6:.4f} M",
            _format(s.paper_parameters_m, "{:.2f} M"),
            _format(s.parameters_difference_m, "{:+.4f} M"),
            f"{s.macs / 1e9:.3f}",
            _format(s.paper_gmacs, "{:.2f}"),
            _format(s.gmacs_difference, "{:+.3f}"),
            f"{s.attention_macs / 1e9:.3f}",
        ]
        for s in counted
    ]
    return "\n".join([format_table([head, *rows]), "", *(textwrap.fill(r, 116) for r in REMARKS)])


def _format_published() -> str:
    from ..paper.accuracy import TITLES, published

    blocks = []
    for number, title in TITLES.items():
        figures = published(number)
        metrics = list(dict.fromkeys(f.metric for f in figures))
        values = {(f.method, f.metric): f"{f.value:.2f}" for f in figures}
        methods = dict.fromkeys(f.method for f in figures)
        rows = [["", *metrics], *([m, *(values.get((m, metric), "") for metric in metrics)] for m in methods)]
        blocks.append(f"Table {number}: {title}\n{format_table(rows)}")
    remark = "DSC and mIoU are in %. The paper prints HD95 in mm but ignores the spacing, so it is in voxels."
    return "\n\n".join([*blocks, remark])


def _format(value: float | None, template: str) -> str:
    return "" if value is None else template.format(value)
