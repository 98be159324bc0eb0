"""Writes the files of a report: report.md, report.html, cases.csv, results.json and pictures/."""

import base64
import html
import json
import re
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from ... import __version__
from ...utils.errors import UserError
from ...utils.files import write_atomic
from .analysis import ReportData, means, shared_scores
from .costs import NetworkSize, epoch_seconds, peak_memory
from .results import COLUMNS, Results
from .sections import markdown


def write_report(data: ReportData, out: Path) -> Path:
    """Write all files and return the path of report.html.

    Every file is replaced atomically, report.html last; other files in the folder stay.

    Raises:
        UserError: if the folder cannot be written.
    """
    pictures = out / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        text = markdown(data, pictures)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another folder with --out") from None
    write_atomic(out / "cases.csv", cases_csv(data))
    write_atomic(out / "results.json", json.dumps(results_json(data), indent=1, allow_nan=False) + "\n")
    write_atomic(out / "report.md", text)
    write_atomic(out / "report.html", html_page(text, out))
    return out / "report.html"


_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: 0.9rem }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.6rem; white-space: nowrap }
img { max-width: 100% } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 0.85rem }
"""


def html_page(text: str, out: Path) -> str:
    """One HTML file with its pictures embedded.

    Args:
        text: Markdown with the title in the first line.
        out: the folder that links to pictures are relative to.
    """
    import markdown

    def embed(match: re.Match) -> str:
        data = base64.b64encode((out / unquote(html.unescape(match[1]))).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = markdown.markdown(text, extensions=["tables", "fenced_code", "toc"])
    body = re.sub(r'src="(pictures/[^"]+)"', embed, body)
    title = html.escape(text.splitlines()[0].removeprefix("# "))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def cases_csv(data: ReportData) -> str:
    """The scores of all validation and test cases, one row for every trainer, repeat, fold, case and region."""
    keys = ["dataset", "configuration", "plans", "trainer", "repeat", "fold", "part", "case", "region"]
    parts = [
        table.assign(part=part, **asdict(results.experiment))
        for results in data.results
        for part, table in (("validation", results.validation), ("test", results.test.get("default")))
        if table is not None
    ]
    columns = keys + [column for column in COLUMNS if column not in keys]
    return pd.concat(parts)[columns].to_csv(index=False, lineterminator="\n")


def results_json(data: ReportData) -> dict:
    """The figures of the report as a JSON object; undefined values are null."""
    return {
        "version": __version__,
        "grid": data.grid.options(),
        "settings": [
            {
                **asdict(results.experiment),
                "missing": list(map(str, results.missing)),
                "warnings": list(map(str, results.warnings)),
                "trainers": {trainer: _trainer_json(results, trainer, data) for trainer in results.finished_trainers},
                "test": {
                    protocol: {trainer: means(scores, trainer).overall() for trainer in results.trainers}
                    for protocol, scores in results.test.items()
                },
            }
            for results in data.results
        ],
        "comparisons": [
            {
                **asdict(paired.experiment), "trainer": paired.trainer, "baseline": paired.results.baseline,
                "metric": paired.metric, "region": paired.region, "adjusted_p": paired.adjusted_p,
                "adjusted_both": paired.adjusted_both,
                "verdict": paired.verdict.value if paired.region is None else None,
                **json.loads(json.dumps(asdict(paired.comparison)), parse_constant=lambda infinity: None),
            }
            for paired in (*data.primary, *data.secondary)
        ],
    }  # fmt: skip


def _trainer_json(results: Results, trainer: str, data: ReportData) -> dict:
    report, size = means(shared_scores(results), trainer), data.sizes.get((results.experiment, trainer))
    return {
        "mean": report.overall(),
        "regions": {region: report.mean(region) for region in report.regions},
        "parameters": size.parameters if isinstance(size, NetworkSize) else None,
        "macs": size.macs if isinstance(size, NetworkSize) else None,
        "seconds_per_epoch": epoch_seconds(results, trainer),
        "peak_memory_bytes": peak_memory(results, trainer),
    }
