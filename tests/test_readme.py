"""The README is short, its links exist, and its figures are current. tests/test_docs.py checks its code blocks."""

import json
import re
from pathlib import Path
from statistics import median

import pytest
import yaml
from support.markdown import anchors, links

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_order_of_the_sections():
    text = README.read_text()
    parts = [
        'src="docs/assets/demo.png"',
        *(f"## {title}" for title in ("Status", "Install", "Quickstart", "Which trainer")),
    ]
    positions = [text.index(part) for part in (*parts, "## Cost and gain", "## More")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_targets_of_links_exist(name):
    page = REPOSITORY / name
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = REPOSITORY / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/cost.md"])
def test_the_cost_on_a_cpu_is_that_of_the_results_file(page):
    rows = [line.strip("| ").split(" | ") for line in (REPOSITORY / page).read_text().splitlines() if "GB" in line]
    table = {row[0]: [re.findall(r"[\d.]+", cell)[0] for cell in row[1:]] for row in rows if len(row) == 6}
    names = {"stock": "stock nnU-Net", "XAttnRes": "XAttnRes", "reference": "the equations taken literally"}
    (case,) = json.loads((REPOSITORY / "benchmarks/results/cpu-2d-256.json").read_text())["cases"]
    for result in case["results"]:
        digits = 1 if result["name"] == "reference" else 2
        step, inference = (median(result["seconds"][phase]) for phase in ("step", "inference"))
        assert table[names[result["name"]]] == [
            f"{result['parameters'] / 1e6:.2f}", f"{result['flops'] / 1e9:.1f}", f"{result['saved_bytes'] / 1e9:.2f}",
            f"{step:.{digits}f}", f"{inference:.{digits}f}",
        ]  # fmt: skip


def test_the_oldest_versions_are_the_promised_ones_everywhere():
    """The README, the page of limits and the matrix of the CI have the versions of pyproject.toml."""
    project = (REPOSITORY / "pyproject.toml").read_text()
    python, torch = (re.search(p, project)[1] for p in (r'requires-python = ">=([\d.]+)"', r'"torch>=([\d.]+)"'))
    for page in (README, REPOSITORY / "docs/explanation/limits.md"):
        text = " ".join(page.read_text().split())
        assert f"Python {python} or newer" in text
        assert re.search(rf"PyTorch\S* {torch} or newer", text)
    tests = yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text())["jobs"]["tests"]
    matrix = tests["strategy"]["matrix"]
    assert matrix["python"][0] == python
    assert matrix["include"] == [{"python": python, "torch": f"{torch}.*"}]
