"""The examples in docstrings give the output that they show."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import nnunet_xattnres

ROOT = Path(nnunet_xattnres.__file__).parent
WITH_EXAMPLES = [path for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path):
    names = path.relative_to(ROOT.parent).with_suffix("").parts
    module = import_module(".".join(names[:-1] if names[-1] == "__init__" else names))
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
