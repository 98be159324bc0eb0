"""What the README points at exists, and what it shows runs."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    headings = {"#" + h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert [link for link in links if link not in headings and not (REPOSITORY / link).exists()] == []


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=["layer", "variant"])
def test_python_examples_run(program):
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+) ", README, re.MULTILINE):
        assert f"\n{target}: " in makefile
