"""Code blocks and links of Markdown pages."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its language, its text, the line where the text begins, and whether it needs a trained model."""

    language: str
    text: str
    line: int
    needs_training: bool


def code_blocks(page: Path) -> list[CodeBlock]:
    """The blocks of a page, in order; `<!-- after a training -->` on the line before marks one that needs a model."""
    content = page.read_text()
    blocks = []
    for match in re.finditer(
        r"^(?P<indent> *)```(?P<language>.*)\n(?P<text>(?:.*\n)*?)(?P=indent)```$", content, re.MULTILINE
    ):
        before = content[: match.start()]
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        marked = before.rstrip().endswith("<!-- after a training -->")
        blocks.append(CodeBlock(match["language"].strip(), text, before.count("\n") + 2, marked))
    return blocks


def links(page: Path) -> list[str]:
    """The targets of a page's links and images, but for those on other sites."""
    content = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    content = re.sub(r"`[^`\n]*`", "", content)
    targets = re.findall(r"\]\(([^)]+)\)", content) + re.findall(r'src="([^"]+)"', content)
    return [target for target in targets if not target.startswith("http")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown and GitHub make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
