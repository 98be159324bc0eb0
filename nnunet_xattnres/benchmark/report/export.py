"""A report's figures as CSV and JSON."""

import csv
import io
import math
from dataclasses import asdict

from ... import __version__
from ...evaluation.metrics import METRICS
from .analysis import means_of_test, validation_means
from .report_data import ReportData, epoch_seconds, peak_memory
from .results import Results
from .sizes import Size


def cases_csv(content: ReportData) -> str:
    """One row per trainer, repeat, fold, case and region."""
    text = io.StringIO()
    keys = ["dataset", "configuration", "plans", "trainer", "repeat", "fold", "part", "case", "region"]
    writer = csv.DictWriter(text, [*keys, *METRICS], lineterminator="\n")
    writer.writeheader()
    for results in content.results:
        experiment = asdict(results.experiment)
        for t in results.trained:
            about = experiment | {"trainer": t.run.trainer, "repeat": t.run.repeat, "fold": t.run.fold}
            _rows(writer, about | {"part": "validation"}, t.scores)
        for (trainer, repeat), scores in results.test.get("default", {}).items():
            about = experiment | {"trainer": trainer, "repeat": repeat, "fold": "together", "part": "test"}
            _rows(writer, about, scores)
    return text.getvalue()


def _rows(writer: csv.DictWriter, about: dict, scores) -> None:
    for case, found in scores.items():
        writer.writerows(about | {"case": case, "region": region} | values for region, values in found.items())


def document(content: ReportData) -> dict:
    """The figures of the report for JSON; what is not defined is null."""
    return {
        "version": __version__,
        "grid": content.grid.options(),
        "settings": [
            {
                **asdict(results.experiment),
                "missing": results.missing,
                "warnings": results.warnings,
                "trainers": {name: _numbers(results, name, content) for name in results.trainers if results.of(name)},
                "test": {
                    protocol: {name: means_of_test(scores, name).overall() for name in results.trainers}
                    for protocol, scores in results.test.items()
                },
            }
            for results in content.results
        ],
        "comparisons": [
            {
                **asdict(paired.results.experiment), "trainer": paired.trainer, "baseline": paired.results.baseline,
                "metric": paired.metric, "region": paired.region, "adjusted_p": paired.adjusted_p,
                "adjusted_both": paired.adjusted_both,
                "verdict": paired.verdict if paired.region is None else None, **_finite(asdict(paired.comparison)),
            }
            for paired in (*content.primary, *content.secondary)
        ],
    }  # fmt: skip


def _numbers(results: Results, trainer: str, content: ReportData) -> dict:
    report, size = validation_means(results, trainer), content.sizes.get((results.experiment, trainer))
    return {
        "mean": report.overall(),
        "regions": {region: report.mean(region) for region in report.regions},
        "parameters": size.parameters if isinstance(size, Size) else None,
        "macs": size.macs if isinstance(size, Size) else None,
        "seconds_per_epoch": epoch_seconds(results, trainer),
        "peak_memory_bytes": peak_memory(results, trainer),
    }


def _finite(value):
    """Infinities, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
