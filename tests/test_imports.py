"""Packages import only from packages that come before them in the order of CONTRIBUTING.md."""

import ast
from pathlib import Path

import pytest

import nnunet_xattnres

ROOT = Path(nnunet_xattnres.__file__).parent
LAYERS = [
    {"utils"},
    {"ops"},
    {"layer", "history", "stages"},
    {"networks"},
    {"training"},
    {"convert", "evaluation", "benchmark", "cost", "demo", "paper"},
    {"cli"},
]
POSITION = {name: position for position, names in enumerate(LAYERS) for name in names}
# the report of a benchmark has scores, and figures of the paper
ALLOWED_WITHIN_A_LAYER = {("benchmark", "evaluation"), ("benchmark", "paper")}


def imported_parts(path):
    """The subpackages or top-level modules of nnunet_xattnres that a file imports, also inside functions."""
    package = path.relative_to(ROOT.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module or "").split("."))
            names = [(*filter(None, module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == "nnunet_xattnres" and name[1] in POSITION)


@pytest.mark.parametrize("part", POSITION)
def test_a_package_imports_only_from_earlier_ones(part):
    paths = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").is_file() else sorted((ROOT / part).rglob("*.py"))
    assert paths
    for path in paths:
        for other in imported_parts(path):
            same = other == part or (part, other) in ALLOWED_WITHIN_A_LAYER or {part, other} <= LAYERS[2]
            assert same or POSITION[other] < POSITION[part], f"{path.relative_to(ROOT)} imports {other}"


def test_every_part_of_the_package_has_a_position():
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} == POSITION.keys()
