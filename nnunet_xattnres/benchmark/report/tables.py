"""The tables of a report, in Markdown."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from ...evaluation.metrics import METRICS
from ...evaluation.report import OVERLAP_METRICS, Report
from ...paper import published
from .analysis import PairedComparison, ReportData, means, shared_scores
from .costs import NetworkSize, epoch_seconds, peak_memory
from .results import Results, score_table
from .statistics import LEVEL

_SHOWN = ("dice", "hd95", "iou")


def escape(text: str) -> str:
    r"""Escape text so that Markdown, and the page made from it, show it literally.

    >>> print(escape("<b>nnUNetTrainer_50epochs</b> | *"))
    &lt;b>nnUNetTrainer_50epochs&lt;/b> \| \*
    """
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    # an underscore between letters is literal anyway
    return re.sub(r"([\\`*\[\]|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def format_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with the first column aligned to the left, the others to the right.

    >>> print(format_markdown(["", "Dice %"], [["nnUNetTrainer", "68.30"]]))
    |  | Dice % |
    | --- | ---: |
    | nnUNetTrainer | 68.30 |
    """
    lines = [list(map(escape, line)) for line in (head, *rows)]
    lines.insert(1, ["---", *["---:"] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class _Mean(NamedTuple):
    """A mean in the unit that is printed, over `counted` of `total` scores; the others are undefined."""

    value: float | None
    counted: int
    total: int

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        return f"{self.value:.2f}" + ("" if self.counted == self.total else f" ({self.counted} of {self.total})")

    def difference(self, other: "_Mean") -> str:
        """Empty unless both means are over all scores: a mean over the easier cases is no gain."""
        if self.value is None or other.value is None or not self.counted == self.total == other.counted == other.total:
            return ""
        return f"{self.value - other.value:+.2f}"


def _region_mean(report: Report, region: str, metric: str, total: int) -> _Mean:
    mean = report.mean(region)
    return _Mean(_printed(mean[metric], metric), int(mean[f"{metric}_n"] or 0), total)


def _overall_means(report: Report, total: int) -> list[_Mean]:
    """Means over labels of means over cases."""
    overall, n = report.overall(), len(report.regions)
    counted = {m: sum(_region_mean(report, region, m, 0).counted for region in report.regions) for m in _SHOWN}
    return [_Mean(_printed(overall[metric], metric), counted[metric], total * n) for metric in _SHOWN]


def _printed(value: float | None, metric: str) -> float | None:
    return 100 * value if value is not None and metric in OVERLAP_METRICS else value


def _title(metric: str, unit: str) -> str:
    return f"{METRICS[metric]} {'%' if metric in OVERLAP_METRICS else unit}"


def mean_table(results: Results, data: ReportData) -> str:
    """Means over labels, and the costs, of every trainer; below each trainer its difference from the baseline."""
    head = ["", *(_title(metric, results.unit) for metric in _SHOWN)]
    head += ["parameters", "GMACs", "seconds per epoch", "peak memory"]
    rows = _with_differences(results, lambda report: _overall_means(report, len(report.scores)))
    for row in rows:
        row += _costs(results, row[0], data) if row[0] in results.trainers else [""] * 4
    return format_markdown(head, rows)


def label_tables(results: Results) -> str:
    """A table for every metric, with a column for every label."""

    def table(metric: str) -> str:
        def label_means(report: Report) -> list[_Mean]:
            return [_region_mean(report, region, metric, len(report.scores)) for region in results.regions]

        head = [_title(metric, results.unit), *results.regions]
        return format_markdown(head, _with_differences(results, label_means))

    return "\n\n".join(map(table, _SHOWN))


def _with_differences(results: Results, cells: Callable[[Report], list[_Mean]]) -> list[list[str]]:
    """A row for every trainer, and one for its difference from the baseline."""
    table, rows = shared_scores(results), []
    by_trainer = {trainer: cells(means(table, trainer)) for trainer in results.finished_trainers}
    for trainer, own in by_trainer.items():
        rows.append([trainer, *map(str, own)])
        if trainer != results.baseline and results.baseline in by_trainer:
            baseline = by_trainer[results.baseline]
            rows.append(["difference", *(a.difference(b) for a, b in zip(own, baseline, strict=True))])
    return rows


def _costs(results: Results, trainer: str, data: ReportData) -> list[str]:
    def three_digits(value: float) -> str:
        return f"{value:.2f}" if value >= 1 else f"{value:.3g}"

    size = data.sizes.get((results.experiment, trainer))
    cells = ["?", "?"]
    if isinstance(size, NetworkSize):
        cells = [f"{three_digits(size.parameters / 1e6)} M", three_digits(size.macs / 1e9)]
    seconds, memory = epoch_seconds(results, trainer), peak_memory(results, trainer)
    cells.append("?" if seconds is None else f"{seconds:.1f}")
    return [*cells, "not recorded" if memory is None else f"{memory / 2**30:.2f} GiB"]


def comparison_table(compared: Sequence[PairedComparison], title: str) -> str:
    """Differences from the baseline with their intervals, p-values and effect sizes."""
    head = [title, "cases", "mean difference", f"{100 * LEVEL:.0f} % over cases", "over folds"]
    head += ["p", "p (Holm)", "both (Holm)", "effect", "win / tie / loss"]
    rows = []
    for paired in compared:
        c, overlap = paired.comparison, paired.metric in OVERLAP_METRICS
        factor = 100 if overlap else 1
        intervals = [_interval(factor * interval.low, factor * interval.high) for interval in (c.cases, c.folds)]
        p = [_p(c.p), _p(paired.adjusted_p), _p(paired.adjusted_both) if c.n_folds > 1 else "unknown"]
        wins, losses = (c.wins, c.losses) if overlap else (c.losses, c.wins)
        rows.append([
            paired.trainer + (f", {paired.region}" if paired.region else ""), str(c.n), f"{factor * c.cases.mean:+.2f}",
            *intervals, *p, f"{c.effect:+.2f}", f"{wins} / {c.ties} / {losses}",
        ])  # fmt: skip
    return format_markdown(head, rows)


def _interval(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) and math.isfinite(high) else "unknown"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def table_of_test_cases(results: Results, protocol: str, unit: str) -> str:
    """Means of the test cases; empty if no trainer has predicted them."""
    scores: pd.DataFrame = results.test.get(protocol, score_table([]))
    n_cases, regions = scores["case"].nunique(), list(scores["region"].unique())
    rows = []
    for trainer in results.trainers:
        report = means(scores, trainer)
        if report.scores:
            total = n_cases * scores.loc[scores["trainer"] == trainer, "repeat"].nunique()
            dice = [_region_mean(report, region, "dice", total) for region in regions]
            rows.append([trainer, *map(str, (*_overall_means(report, total), *dice))])
    head = ["", *(_title(metric, unit) for metric in _SHOWN), *(f"Dice {region}" for region in regions)]
    return format_markdown(head, rows) if rows else ""


def published_table(name: str) -> str:
    """The paper's figures for one of its data sets."""
    figures = [figure for figure in published() if figure.metric.startswith(f"{name} ")]
    columns = list(dict.fromkeys(figure.metric for figure in figures))
    rows = []
    for number, method in dict.fromkeys((figure.table, figure.method) for figure in figures):
        values = {f.metric: f"{f.value:.2f}" for f in figures if (f.table, f.method) == (number, method)}
        rows.append([f"{method} (Table {number})", *(values.get(column, "") for column in columns)])
    return format_markdown(["", *(column.removeprefix(f"{name} ") for column in columns)], rows)
