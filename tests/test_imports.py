"""Packages import only from packages before them in the order of CONTRIBUTING.md, and no imports form a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nnunet_xattnres

ROOT = Path(nnunet_xattnres.__file__).parent
LAYERS = (
    {"", "utils"},  # the package itself has the version and resolves public names on first use
    {"attention", "ops"},
    {"history", "layer", "stages"},
    {"networks"},
    {"training"},
    {"benchmark", "convert", "cost", "demo", "evaluation", "export", "maps", "paper", "planning"},
    {"cli"},
    {"__main__"},
)
# the packages of the commands do not use each other, but the report of a benchmark has scores and the paper's figures,
# and plans can be sized by a measurement
ALLOWED_WITHIN_A_LAYER = {("benchmark", "evaluation"), ("benchmark", "paper"), ("planning", "cost")}


def module_name(path: Path) -> str:
    """Dotted name below the package; "" is the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py") if "trainers" not in path.relative_to(ROOT).parts[:1]}


def imports(name: str) -> set[str]:
    """The modules of this package that a module imports, anywhere in it."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == ROOT.name:
            base = node.module.split(".")[1:]
        else:
            continue
        for alias in node.names:
            submodule = ".".join([*base, alias.name])
            found.add(submodule if submodule in MODULES else ".".join(base))
    return found - {name}


def package_of(name: str) -> str:
    return name.split(".")[0]


def layer_of(name: str) -> int:
    (level,) = (n for n, layer in enumerate(LAYERS) if package_of(name) in layer)
    return level


def test_imports_are_found():
    assert {"ops.reference", "cli.main", "networks.planned_unet", ""} <= MODULES.keys()
    assert "ops" in imports("layer")
    assert "utils.errors" in imports("cli.main")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_earlier_packages(name):
    assert {other for other in imports(name) if layer_of(other) > layer_of(name)} == set()
    if layer_of(name) == layer_of("convert"):
        siblings = {
            (package_of(name), package_of(other)) for other in imports(name) if layer_of(other) == layer_of(name)
        }
        assert {(a, b) for a, b in siblings if a != b} <= ALLOWED_WITHIN_A_LAYER


def test_no_circle_of_imports():
    graph = {name: imports(name) for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
