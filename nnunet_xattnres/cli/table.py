"""xattnres table: print the sizes of the paper's networks beside the published figures, or of all networks.

It prints the parameters and the multiply-adds of every network of the paper, and of CSAP, as implemented here, the
published figures and the difference. With --networks it prints those of stock nnU-Net and of every network of this
package, without XAttnRes and with it, for typical plans: patches of 256x256 pixels, seven stages, three classes. With
--published it prints the accuracy tables of the paper instead.

examples:
  xattnres table                      sizes as text, with remarks on how they are counted
  xattnres table --networks           every network of this package beside stock nnU-Net
  xattnres table --csv > sizes.csv    for a spreadsheet
  xattnres table --published --json   Tables 1 to 5 of the paper, one entry per figure
"""

import argparse
import csv
import json
import sys
import textwrap
from dataclasses import asdict
from typing import Any

from ..utils.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    content = parser.add_mutually_exclusive_group()
    content.add_argument("--networks", action="store_true", help="print the sizes of all networks of this package")
    content.add_argument("--published", action="store_true", help="print the accuracy tables of the paper instead")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--csv", action="store_true", help="print comma-separated values")


def run(arguments: argparse.Namespace) -> int:
    read = _read_published if arguments.published else _count_networks if arguments.networks else _count_sizes
    records, document, text = read()
    if arguments.json:
        print(json.dumps(document, indent=1))
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    else:
        print(text)
    return 0


def _read_published() -> tuple[list[dict], Any, str]:
    """The rows for CSV, what --json prints, and the text."""
    from ..paper.accuracy import published

    records = [asdict(figure) for figure in published()]
    return records, records, _format_published()


def _count_networks() -> tuple[list[dict], Any, str]:
    from ..cost.counts import count_all

    counts = count_all()
    records = [asdict(count) for count in counts]
    return records, records, _format_counts(counts)


def _count_sizes() -> tuple[list[dict], Any, str]:
    from ..paper.sizes import REMARKS, sizes

    counted = sizes()
    differences = ("parameters_difference_m", "gmacs_difference")
    records = [asdict(size) | {name: getattr(size, name) for name in differences} for size in counted]
    return records, {"networks": records, "remarks": REMARKS}, _format_sizes(counted)


def _format_sizes(counted) -> str:
    from ..paper.sizes import REMARKS

    head = ["", "parameters", "paper", "difference", "pixels", "GMACs", "paper", "difference", "attention"]
    rows = [
        [
            s.network,
            f"{s.parameters / 1e6:.4f} M",
            _format(s.paper_parameters_m, "{:.2f} M"),
            _format(s.parameters_difference_m, "{:+.4f} M"),
            f"{s.side}x{s.side}",
            f"{s.macs / 1e9:.3f}",
            _format(s.paper_gmacs, "{:.2f}"),
            _format(s.gmacs_difference, "{:+.3f}"),
            f"{s.attention_macs / 1e9:.3f}",
        ]
        for s in counted
    ]
    return "\n".join([format_table([head, *rows]), "", *(textwrap.fill(r, 116) for r in REMARKS)])


def _format_counts(counts) -> str:
    from ..cost.counts import CASE

    stock = counts[0]
    head = ["", "parameters", "", f"GMACs, {CASE}", "", "of them attention"]
    rows = [
        [
            c.network,
            f"{c.parameters / 1e6:.2f} M",
            f"{c.parameters / stock.parameters:.2f}x",
            f"{c.all_macs / 1e9:.2f}",
            f"{c.all_macs / stock.all_macs:.2f}x",
            f"{c.attention_macs / 1e9:.3f}",
        ]
        for c in counts
    ]
    remark = (
        "For one image with one channel and three classes, in inference. GMACs: 1e9 multiply-adds of convolutions, "
        "linear layers and the products inside attention. The trainer is nnUNetTrainer and the name in the table."
    )
    return "\n".join([format_table([head, *rows]), "", textwrap.fill(remark, 116)])


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
