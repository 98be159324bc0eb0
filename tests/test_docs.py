"""What the documentation shows exists and runs: code blocks, commands, links, generated parts."""

import doctest
import json
from pathlib import Path

import pytest
from support.markdown import code_blocks
from support.shell_lines import check, commands

from nnunet_xattnres.benchmark.grid import from_options, read_options

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
EXAMPLE_REPORT = DOCS / "benchmark"  # what `xattnres benchmark report` writes
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if EXAMPLE_REPORT not in page.parents]
PAGES += [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
LANGUAGES = {"python", "bash", "yaml", "json", "text"}


def named(pages):
    return {"argvalues": pages, "ids": [str(page.relative_to(REPOSITORY)) for page in pages]}


def with_language(language):
    pages = [page for page in PAGES if any(b.language == language and not b.needs_training for b in code_blocks(page))]
    return {"argnames": "page", **named(pages)}


@pytest.mark.parametrize("page", **named(PAGES))
def test_every_block_has_a_language_that_is_checked(page):
    assert {block.language for block in code_blocks(page)} <= LANGUAGES


@pytest.mark.parametrize(**with_language("python"))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """The blocks of a page run in its order and share their names, as if pasted one after the other."""
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "documentation"}
    for block in code_blocks(page):
        if block.language == "python" and not block.needs_training:
            run(block, scope, str(page))


def run(block, scope, name):
    if ">>>" not in block.text:
        exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), scope)
        return
    test = doctest.DocTestParser().get_doctest(block.text, scope, name, name, block.line - 1)
    runner = doctest.DocTestRunner()
    runner.run(test, clear_globs=False)
    assert runner.tries and not runner.failures
    scope |= test.globs


@pytest.mark.parametrize(**with_language("bash"))
def test_shell_blocks_name_commands_and_options_that_exist(page):
    for block in code_blocks(page):
        if block.language == "bash":
            for command in commands(block.text):
                check(command)


@pytest.mark.parametrize(
    "line",
    [
        "xattnres benchmark run --no-such-option", "xattnres no-such-command", "nnUNetv2_train 1 2d 0 --no-such-option",
        "make no-such-target", "pip install '.[no-such-extra]'", "export no_such_variable=1", "no-such-command",
        "python no_such_file.py", 'export nnUNet_extTrainer="$(xattnres no-such-command)"',
    ],
)  # fmt: skip
def test_the_check_of_shell_blocks_finds_what_does_not_exist(line, capsys):
    with pytest.raises((AssertionError, SystemExit)):
        for command in commands(line):
            check(command)


@pytest.mark.parametrize(**with_language("yaml"))
def test_yaml_blocks_are_benchmarks(page, tmp_path):
    for number, block in enumerate(b for b in code_blocks(page) if b.language == "yaml"):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block.text)
        assert from_options(read_options(file), file.name).trainers


@pytest.mark.parametrize(**with_language("json"))
def test_json_blocks_are_json(page):
    for block in code_blocks(page):
        if block.language == "json":
            json.loads(block.text)
