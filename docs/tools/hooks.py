"""MkDocs hooks: generated parts of pages, and formulas.

A page gets a generated part by a line such as `<!-- insert: commands -->`, so that what it shows cannot go out of date.
Formulas are LaTeX between `$` or `$$`, or a docstring's `.. math::`, and become MathML, which browsers show without a
script.
"""

import argparse
import html
import json
import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from markdown import Extension
from markdown.preprocessors import Preprocessor

from nnunet_xattnres.cli.main import COMMANDS, make_parser

REPOSITORY = Path(__file__).resolve().parents[2]


def on_config(config):
    config.markdown_extensions.append(DocstringExtension())
    return config


def on_page_markdown(markdown: str, page, **_) -> str:
    return re.sub(r"^<!-- insert: ([\w.-]+) -->$", lambda found: insert(found[1]), markdown, flags=re.MULTILINE)


def on_page_content(content: str, **_) -> str:
    """The formulas that pymdownx.arithmatex has marked, as MathML."""

    def mathml(found: re.Match) -> str:
        latex = html.unescape(found[2]).strip()[2:-2]
        if found[1] == "span":
            return convert(latex)
        # one line for each equation, or long ones would not fit
        return "".join(convert(part, display="block") for part in re.split(r",\s*\\quad\s", latex))

    return re.sub(r'<(div|span) class="arithmatex">(.*?)</\1>', mathml, content, flags=re.DOTALL)


def insert(name: str) -> str:
    """A generated part of a page, as Markdown, or a file of the repository's top folder.

    Raises:
        KeyError: if there is no such part.
    """
    if name.endswith(".md"):
        return file_of_the_repository(name)
    parts = {"commands": commands, "trainers": trainers, "problem-codes": problem_codes, "network-costs": network_costs}
    return parts[name]()


def file_of_the_repository(name: str) -> str:
    """CONTRIBUTING.md or CHANGELOG.md as a page of docs/: links into docs/ lead there, links to code are text."""

    def link(found: re.Match) -> str:
        text, target = found.groups()
        if target.startswith(("http", "#")):
            return found[0]
        return f"[{text}]({target.removeprefix('docs/')})" if target.startswith("docs/") else text

    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", link, (REPOSITORY / name).read_text())


def commands() -> str:
    """The help of every subcommand."""
    os.environ["COLUMNS"] = "100"  # argparse's width
    parts = []
    for name in COMMANDS:
        (subparsers,) = _subparsers(make_parser([name]))
        for title, parser in _with_actions(name, subparsers.choices[name]):
            parts.append(f"{'##' if title == name else '###'} xattnres {title}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def trainers() -> str:
    """The parts of a trainer's name and how they combine."""
    from nnunet_xattnres.training.names import markdown

    return markdown()


def network_costs() -> str:
    """The figures of benchmarks/results/cpu-networks-2d-256.json, relative to the stock network."""
    file = REPOSITORY / "benchmarks" / "results" / "cpu-networks-2d-256.json"
    (case,) = json.loads(file.read_text())["cases"]
    stock = case["results"][0]
    rows = [
        "| network | parameters | GMACs | training step | inference | kept for backward |",
        "|---|---|---|---|---|---|",
    ]
    for result in case["results"]:
        cells = [result["name"], f"{result['parameters'] / 1e6:.2f} M"]
        # the FLOPs are those of the batch
        cells.append(f"{result['flops'] / 2e9 / case['case']['batch_size']:.2f}")
        for phase in ("step", "inference"):
            medians = [statistics.median(r["seconds"][phase]) for r in (result, stock)]
            cells.append(f"{medians[0]:.2f} s, {medians[0] / medians[1]:.2f} x")
        cells.append(f"{result['saved_bytes'] / 1e6:.0f} MB, {result['saved_bytes'] / stock['saved_bytes']:.2f} x")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def problem_codes() -> str:
    """The codes of the problems that `xattnres convert` reports, and their meaning."""
    from nnunet_xattnres.convert.problems import ProblemCode

    return "\n".join(["| code | meaning |", "|---|---|", *(f"| `{code}` | {code.meaning} |" for code in ProblemCode)])


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _with_actions(title: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield title, parser
    for action in _subparsers(parser):
        for name, choice in action.choices.items():
            yield from _with_actions(f"{title} {name}", choice)


class DocstringExtension(Extension):
    """Converts syntax of docstrings to Markdown: `.. math::`, `::` before code, and `>>>` without a fence."""

    def extendMarkdown(self, md) -> None:  # noqa: N802 - Markdown's name
        md.preprocessors.register(_DocstringPreprocessor(md), "docstrings", 100)


class _DocstringPreprocessor(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        text = "\n".join(lines)
        math = r"^\.\. math::(.*(?:\n{1,2} +.+)?(?:\n +.+)*)"
        text = re.sub(math, r"\n$$\n\1\n$$\n", text, flags=re.MULTILINE)
        if "```" not in text:  # a docstring, or a part of one
            text = re.sub(r"(?<=\w)::$", ":", text, flags=re.MULTILINE)
            text = re.sub(r"^>>> (?:.+\n?)+", r"\n```pycon\n\g<0>\n```\n", text, flags=re.MULTILINE)
        return text.split("\n")
