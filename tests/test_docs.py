"""The documentation is correct: its code runs, and its commands, options and links exist."""

import doctest
import json
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from support.markdown import code_blocks
from support.shell_lines import check, commands

from nnunet_xattnres.benchmark.grid import from_options, read_options
from nnunet_xattnres.cli.main import COMMANDS
from nnunet_xattnres.convert.problems import ProblemCode
from nnunet_xattnres.paper.sizes import sizes
from nnunet_xattnres.utils.paths import trainers_path

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
    parameters = named(pages)
    # the exporter to ONNX takes long to start
    slow = [pytest.mark.slow] if language == "python" else []
    parameters["argvalues"] = [
        pytest.param(page, marks=slow if page.name == "export.md" else []) for page in parameters["argvalues"]
    ]
    return {"argnames": "page", **parameters}


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
        "python no_such_file.py", "docker run nnunet-xattnres no-such-command",
        "docker build --build-arg NO_SUCH=1 .", 'export nnUNet_extTrainer="$(xattnres no-such-command)"',
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


def test_the_network_of_your_own(tmp_path, monkeypatch):
    """The code is short. Without layers, the network is MONAI's. With them, every parameter is used."""
    monkeypatch.chdir(tmp_path)
    (block,) = [b for b in code_blocks(DOCS / "tutorials/own-network.md") if "class XAttnResBasicUNet" in b.text]
    assert len([line for line in block.text.splitlines() if line.strip()]) < 20
    scope = {"__name__": "documentation"}
    run(block, scope, "own-network.md")
    network, monai = scope["XAttnResBasicUNet"](3, 2).eval(), scope["BasicUNet"](2, 3, 2).eval()
    x = torch.randn(2, 3, 32, 32)
    for layer in network.xattnres.values():
        torch.nn.init.normal_(layer.pseudo_query)
    network(x).square().mean().backward()
    unused = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # the second stage reads the pooled output of the first twice, from the history and as x
    assert unused == {"xattnres.1.pseudo_query", "xattnres.1.norm_weight"}
    network.xattnres.clear()
    monai.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), monai(x))


@pytest.mark.slow
def test_the_sizes_are_those_that_are_counted():
    """The table on the page has the figures of `xattnres table`."""
    page = (DOCS / "explanation/sizes.md").read_text()
    rows = {line.split(" | ")[0][2:]: re.findall(r"[\d.]+", line) for line in page.splitlines()}
    for size in sizes():
        if size.paper_gmacs is not None:
            figures = [f"{size.parameters / 1e6:.4f}"]
            if size.paper_parameters_m is not None:
                figures.append(f"{size.paper_parameters_m:.2f}")
            figures += [f"{size.macs / 1e9:.3f}", f"{size.paper_gmacs:.2f}"]
            assert rows[size.network.removesuffix(" (both)")] == figures


def test_the_figure_is_drawn(tmp_path):
    """The script draws it, and checks the identity that it shows."""
    runpy.run_path(str(DOCS / "tools/algebra_figure.py"))["main"](tmp_path / "algebra.svg")
    for file in (tmp_path / "algebra.svg", DOCS / "assets/algebra.svg"):
        texts = "".join(ElementTree.parse(file).getroot().itertext())
        assert "As computed" in texts


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with warnings as errors: links, anchors and names of the API that do not exist are warnings."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    return site


def test_generated_parts_are_in_the_site(site):
    pages = {page.relative_to(site).parent.as_posix(): page.read_text() for page in site.rglob("index.html")}
    assert not [name for name, page in pages.items() if "insert:" in page]
    assert all(f"xattnres {command}" in pages["reference/commands"] for command in COMMANDS)
    assert "nnUNetTrainer" in pages["reference/trainers"]
    assert all(f"<code>{code}</code>" in pages["reference/files"] for code in ProblemCode)
    assert "Contributing" in pages["contributing"] and "Changelog" in pages["changelog"]
    formulas = [name for name, page in pages.items() if "<math" in page]
    assert {"reference/layer", "explanation/algebra"} <= set(formulas)
    assert not [name for name, page in pages.items() if "arithmatex" in page]
    assert not [name for name, page in pages.items() if name.startswith("reference/") and "math::" in page]


def test_readers_fetch_nothing_from_elsewhere(site):
    """No page loads a script, style, font or picture from another host."""
    for page in site.rglob("*.html"):
        found = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text())
        assert not found, page


NARROW = """python - <<'END'
import json, pathlib
plans = pathlib.Path("nnUNet_preprocessed/Dataset501_Discs/nnUNetPlans.json")
content = json.loads(plans.read_text())
kwargs = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
kwargs["features_per_stage"] = [width // 8 for width in kwargs["features_per_stage"]]
plans.write_text(json.dumps(content))
END"""
"""Networks of an eighth of the planned width train in seconds."""


def with_few_processes(text: str) -> str:
    """nnU-Net's commands with one worker each: every worker imports PyTorch."""
    for command, options in {"plan_and_preprocess": "-np 1 -npfp 1", "predict": "-npp 1 -nps 1"}.items():
        text = text.replace(f"nnUNetv2_{command} ", f"nnUNetv2_{command} {options} ")
    return text


@pytest.mark.slow
def test_the_first_training_runs_as_it_is_shown(tmp_path):
    """Every block of the tutorial in order, and those of other pages that need its trained network."""
    pages = [DOCS / "tutorials/first-training.md", DOCS / "tutorials/attention.md"]
    script = ["set -e"]
    for page in pages:
        for block in code_blocks(page):
            if (page is not pages[0] and not block.needs_training) or "xattnres demo" in block.text:
                continue
            if block.language == "python":
                script.append(f"python - <<'END'\n{block.text}END")
            elif block.language == "bash":
                script.append(with_few_processes(block.text.replace("pip install .", "true")))
                if "nnUNetv2_plan_and_preprocess" in block.text:
                    script.append(NARROW)
    scripts = sysconfig.get_path("scripts")
    env = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
    }
    assert trainers_path().is_dir()
    subprocess.run(["bash", "-c", "\n".join(script)], check=True, cwd=tmp_path, env=env)
    for name in ("stock", "xattnres"):
        assert len(list((tmp_path / f"predicted_{name}").glob("*.png"))) == 6
