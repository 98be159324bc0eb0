"""What the README points at exists, and what it shows runs."""

import re
from pathlib import Path

import pytest
import torch

from nnunet_xattnres.paper.sizes import sizes
from nnunet_xattnres.training.catalogue import catalogue

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    headings = {"#" + h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert [link for link in links if link not in headings and not (REPOSITORY / link).exists()] == []


PROGRAMS = dict(
    zip(["variant", "layer", "network"], re.findall(r"```python\n(.*?)```", README, re.DOTALL), strict=True)
)


def run(program):
    scope = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), scope)
    return scope


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_python_examples_run(program):
    run(program)


def test_the_network_of_your_own():
    """It is short; without its layers it is MONAI's; with them every parameter is used."""
    lines = [line for line in PROGRAMS["network"].splitlines() if line.strip()]
    assert len(lines) < 20
    scope = run(PROGRAMS["network"])
    network, monai = scope["XAttnResBasicUNet"](3, 2).eval(), scope["BasicUNet"](2, 3, 2).eval()
    x = torch.randn(2, 3, 32, 32)
    for layer in network.xattnres.values():
        torch.nn.init.normal_(layer.pseudo_query)
    network(x).square().mean().backward()
    unused = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    # the second stage reads the pooled output of the first twice, from the pool and as x
    assert unused == {"xattnres.1.pseudo_query", "xattnres.1.norm_weight"}
    network.xattnres.clear()
    monai.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), monai(x))


def test_the_sizes_are_counted():
    """The table of sizes says what `xattnres table` says."""
    rows = {line.split(" | ")[0][2:]: re.findall(r"[\d.]+", line) for line in README.splitlines()}
    for size in sizes():
        if size.paper_gmacs is not None:
            figures = [f"{size.parameters / 1e6:.4f}", f"{size.paper_parameters_m:.2f}"]
            figures += [f"{size.macs / 1e9:.3f}", f"{size.paper_gmacs:.2f}"]
            assert rows[size.network.removesuffix(" (both)")] == figures


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+) ", README, re.MULTILINE):
        assert f"\n{target}: " in makefile


def test_the_number_of_trainers():
    assert f"[{len(catalogue()) - 1} more](#trainers)" in README
