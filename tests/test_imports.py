"""The packages are layers: each imports from the ones below it, and no module imports itself through others."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nnunet_xattnres

ROOT = Path(nnunet_xattnres.__file__).parent
LAYERS = (
    {"", "utils"},  # the package itself has the version and resolves public names on first use
    {"ops"},
    {"history", "layer", "stages"},
    {"networks"},
    {"training"},
    {"benchmark", "convert", "cost", "demo", "evaluation", "paper"},
    {"cli"},
    {"__main__"},
)


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


def layer_of(name: str) -> int:
    (level,) = (n for n, layer in enumerate(LAYERS) if name.split(".")[0] in layer)
    return level


def test_there_are_modules():
    assert {"ops.reference", "cli.main", "networks.planned_unet", ""} <= MODULES.keys()
    assert imports("layer") >= {"ops"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_layer_and_below(name):
    assert {other for other in imports(name) if layer_of(other) > layer_of(name)} == set()


def test_no_circle_of_imports():
    graph = {name: imports(name) for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
