"""One HTML file with its pictures inside, that asks for nothing else and shows what the Markdown says."""

import base64
import html.parser
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from skimage.io import imread, imsave

from nnunet_xattnres.benchmark.report.page import page

_VOID = {"meta", "img", "br", "hr"}


class Page(html.parser.HTMLParser):
    """What a page has; every element must end where it should."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.shown: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in _VOID
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.shown.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes.get(attribute) for name, attributes in self.elements if name == tag]


@pytest.fixture
def picture(tmp_path):
    """Writes a picture under a name."""
    (tmp_path / "pictures").mkdir()

    def write(name: str, seed: int = 0) -> Path:
        path = tmp_path / "pictures" / name
        imsave(path, np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8), check_contrast=False)
        return path

    return write


TEXT = """\
# Benchmark: A & B against C

- **one**: *better*, [see](#below)
- a < b

## Below

| Dice % | a\\|b |
| --- | ---: |
| x | 1.00 |

```bash
nnUNetv2_train 7 2d 0 && echo "<done>"
```
"""


def test_elements(tmp_path):
    found = Page(page(TEXT, tmp_path))
    assert page(TEXT, tmp_path).startswith("<!doctype html>\n")
    assert "<title>Benchmark: A &amp; B against C</title>" in page(TEXT, tmp_path)
    assert ("h1", "Benchmark: A & B against C") in found.shown
    assert [text for tag, text in found.shown if tag in ("th", "td")] == ["Dice %", "a|b", "x", "1.00"]
    assert ("code", 'nnUNetv2_train 7 2d 0 && echo "<done>"') in found.shown
    assert ("li", "a < b") in found.shown
    assert found.all("meta", "charset") == ["utf-8"]
    assert found.all("html", "lang") == ["en"]


def test_links_lead_to_headings(tmp_path):
    found = Page(page(TEXT, tmp_path))
    assert found.all("a", "href") == ["#below"]
    assert "below" in found.all("h2", "id")


def test_pictures_are_inside(tmp_path, picture):
    """Byte for byte, so that the page may be sent or moved alone."""
    paths = [picture("a_b.png"), picture("c.png", 1)]
    text = TEXT + "".join(f"\n![{path.stem} & more](pictures/{path.name})\n" for path in paths)
    found = Page(page(text, tmp_path))
    sources = found.all("img", "src")
    assert [s.split(",", 1)[0] for s in sources] == ["data:image/png;base64"] * 2
    assert [base64.b64decode(s.split(",", 1)[1]) for s in sources] == [path.read_bytes() for path in paths]
    assert found.all("img", "alt") == ["a_b & more", "c & more"]


@pytest.mark.parametrize("name", ["Größe_2d.png", "a b.png", "100%.png", "a&b.png", "脳.png"])
def test_names_of_pictures(tmp_path, picture, name):
    """As they are quoted in links."""
    path = picture(name)
    (source,) = Page(page(f"# T\n\n![x](pictures/{quote(name)})\n", tmp_path)).all("img", "src")
    assert base64.b64decode(source.split(",", 1)[1]) == path.read_bytes()
    assert imread(path).shape == (5, 6, 3)


def test_it_asks_for_nothing_else(tmp_path, picture):
    picture("a.png")
    text = page(f"{TEXT}\n![x](pictures/a.png)\n", tmp_path)
    found = Page(text)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in found.elements}
    for _, attributes in found.elements:
        for name in ("src", "href", "data", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://", text)


def test_text_about_pictures_is_no_picture(tmp_path):
    """A command that has such words is shown as it is."""
    text = '# T\n\n```bash\necho src="pictures/none.png"\n```\n'
    assert ("code", 'echo src="pictures/none.png"') in Page(page(text, tmp_path)).shown


def test_other_alphabets(tmp_path):
    found = Page(page("# Größe, 脳\n\nµm ≥ 1\n", tmp_path))
    assert ("title", "Größe, 脳") in found.shown and ("p", "µm ≥ 1") in found.shown
