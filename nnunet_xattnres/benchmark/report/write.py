"""A benchmark's report: a text, the same as a page of its own, and its figures as data."""

import json
from pathlib import Path

from ...utils.errors import UserError
from ...utils.files import write_atomic
from .export import cases_csv, document
from .page import page
from .report_data import ReportData
from .sections import markdown


def write_report(content: ReportData, out: Path) -> Path:
    """Write report.md, report.html, cases.csv, results.json and pictures/; returns the page.

    Every file is replaced as a whole, the page last; other files in the folder stay.

    Raises:
        UserError: if the folder cannot be written.
    """
    pictures = out / "pictures"
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        text = markdown(content, pictures)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another folder with --out") from None
    write_atomic(out / "cases.csv", cases_csv(content))
    write_atomic(out / "results.json", json.dumps(document(content), indent=1, allow_nan=False) + "\n")
    write_atomic(out / "report.md", text)
    write_atomic(out / "report.html", page(text, out))
    return out / "report.html"
