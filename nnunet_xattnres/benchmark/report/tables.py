"""The tables of a report, as Markdown."""

import math
import re
from collections.abc import Callable, Iterable, Sequence

from ...evaluation.metrics import METRICS
from ...evaluation.report import OVERLAP_METRICS, Report
from ...paper import published
from .analysis import PairedComparison, means_of_test, regions, validation_means
from .report_data import ReportData, epoch_seconds, peak_memory
from .results import Results
from .sizes import Size
from .statistics import LEVEL

_SHOWN = ("dice", "hd95", "iou")

_Cell = tuple[float | None, int, int]
"""A mean in print's unit, how many it counts, and of how many."""


def plain(text: str) -> str:
    """Text that shows as it is, in Markdown and in the page that is made of it."""
    # between letters, as in nnUNetTrainer_50epochs, an underscore is itself
    special = r"[\\`*\[\]|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    return re.sub(special, lambda found: "\\" + found[0], re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line if line is rule else map(plain, line)) + " |" for line in lines)


def means(results: Results, content: ReportData) -> str:
    """Means over labels and what each trainer costs, each with its difference to the baseline."""
    head = ["", *(_title(metric, results.unit) for metric in _SHOWN)]
    head += ["parameters", "GMACs", "s an epoch", "peak memory"]

    def cells(trainer: str) -> list[_Cell]:
        report = validation_means(results, trainer)
        return _overall(report, len(report.scores))

    return table(head, _with_differences(results, cells, lambda trainer: _costs(results, trainer, content)))


def by_label(results: Results) -> str:
    """Mean of every metric and label."""
    names = regions(results)
    reports = {trainer: validation_means(results, trainer) for trainer in results.trainers}
    blocks = []
    for metric in _SHOWN:

        def cells(trainer: str, metric: str = metric) -> list[_Cell]:
            report = reports[trainer]
            return [_cell(report.mean(name), metric, len(report.scores)) for name in names]

        rows = _with_differences(results, cells)
        blocks.append(table([_title(metric, results.unit), *names], rows))
    return "\n\n".join(blocks)


def _cell(mean: dict, metric: str, of: int) -> _Cell:
    value = mean[metric]
    return (None if value is None else 100 * value if metric in OVERLAP_METRICS else value), mean[f"{metric}_n"], of


def _overall(report: Report, of: int) -> list[_Cell]:
    """Means over labels of means over cases, and how many of all labels of so many cases they count."""
    overall, cells = report.overall(), []
    for metric in _SHOWN:
        counted = sum(report.mean(region)[f"{metric}_n"] for region in report.regions)
        value, _, _ = _cell(overall, metric, 0)
        cells.append((value, counted, of * len(report.regions)))
    return cells


def _with_differences(
    results: Results,
    cells: Callable[[str], list[_Cell]],
    further: Callable[[str], list[str]] = lambda trainer: [],
) -> list[list[str]]:
    """A row for every trainer, and below it the difference to the baseline where both count all."""
    rows = []
    baseline = cells(results.baseline) if results.of(results.baseline) else None
    for trainer in results.trainers:
        if not results.of(trainer):
            continue
        own, more = cells(trainer), further(trainer)
        rows.append([trainer, *map(_text, own), *more])
        if baseline and trainer != results.baseline:
            differences = [_difference(*pair) for pair in zip(own, baseline, strict=True)]
            rows.append(["difference", *differences, *[""] * len(more)])
    return rows


def _text(cell: _Cell) -> str:
    value, counted, of = cell
    if value is None:
        return "undefined"
    return f"{value:.2f}" if counted == of else f"{value:.2f} ({counted} of {of})"


def _difference(a: _Cell, b: _Cell) -> str:
    """Empty unless both are of the same, for a mean over easier cases is no gain."""
    if a[0] is None or b[0] is None or a[1:] != b[1:] or a[1] != a[2]:
        return ""
    return f"{a[0] - b[0]:+.2f}"


def _title(metric: str, unit: str) -> str:
    return f"{METRICS[metric]} {'%' if metric in OVERLAP_METRICS else unit}"


def _costs(results: Results, trainer: str, content: ReportData) -> list[str]:
    size = content.sizes.get((results.experiment, trainer))
    cells = [f"{_short(size.parameters / 1e6)} M", _short(size.macs / 1e9)] if isinstance(size, Size) else ["?", "?"]
    seconds, memory = epoch_seconds(results, trainer), peak_memory(results, trainer)
    cells.append("?" if seconds is None else f"{seconds:.1f}")
    cells.append("not recorded" if memory is None else f"{memory / 2**30:.2f} GiB")
    return cells


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def comparisons(compared: Sequence[PairedComparison], title: str) -> str:
    """Differences to the baseline with everything that says how sure they are."""
    head = [title, "cases", "mean difference", f"{100 * LEVEL:.0f} % over cases", "over folds"]
    head += ["p", "p (Holm)", "both (Holm)", "effect", "win / tie / loss"]
    rows = []
    for paired in compared:
        c, factor = paired.comparison, 100 if paired.metric in OVERLAP_METRICS else 1
        name = paired.trainer + (f", {paired.region}" if paired.region else "")
        spans = [_span(interval.low, interval.high, factor) for interval in (c.cases, c.folds)]
        higher, lower = (c.wins, c.losses) if paired.metric in OVERLAP_METRICS else (c.losses, c.wins)
        p = [_p(c.p), _p(paired.adjusted_p), _p(paired.adjusted_both) if c.n_folds > 1 else "unknown"]
        counts = f"{higher} / {c.ties} / {lower}"
        rows.append([name, str(c.n), f"{factor * c.cases.mean:+.2f}", *spans, *p, f"{c.effect:+.2f}", counts])
    return table(head, rows)


def _span(low: float, high: float, factor: float) -> str:
    return f"{factor * low:+.2f} to {factor * high:+.2f}" if math.isfinite(low) and math.isfinite(high) else "unknown"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def tested(results: Results, protocol: str, unit: str) -> str:
    """Means of the test cases; empty if nobody has predicted them."""
    scores, names = results.test.get(protocol, {}), regions(results)
    rows = []
    reports = {trainer: means_of_test(scores, trainer) for trainer in results.trainers}
    cases = {case for found in scores.values() for case in found}
    for trainer, report in reports.items():
        if report.scores:
            of = len(cases) * sum(name == trainer for name, _ in scores)
            dice = [_cell(report.mean(name), "dice", of) for name in report.regions]
            rows.append([trainer, *map(_text, (*_overall(report, of), *dice))])
            names = report.regions
    head = ["", *(_title(metric, unit) for metric in _SHOWN), *(f"Dice {name}" for name in names)]
    return table(head, rows) if rows else ""


def printed(name: str) -> str:
    """What the paper prints for one of its data sets."""
    found = [figure for figure in published() if figure.metric.startswith(f"{name} ")]
    metrics = list(dict.fromkeys(figure.metric for figure in found))
    rows = []
    for number, method in dict.fromkeys((figure.table, figure.method) for figure in found):
        values = {f.metric: f"{f.value:.2f}" for f in found if (f.table, f.method) == (number, method)}
        rows.append([f"{method} (Table {number})", *(values.get(metric, "") for metric in metrics)])
    return table(["", *(metric.removeprefix(f"{name} ") for metric in metrics)], rows)
