"""Graphs that are traced or exported hold PyTorch's own operations, and compute what the reference computes."""

import io
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support.operator import SHAPES, all_results, assert_all_close, make
from torch import nn
from torch.export import Dim

from nnunet_xattnres import History, XAttnRes
from nnunet_xattnres.ops import BACKENDS, custom_op, export_backend, reference

torchscript = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
"""torch.jit.trace is deprecated, but not removed."""


@pytest.mark.parametrize("gate", [None, 0.3], ids=["no gate", "gate"])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_reference(shape, gate):
    case = make(shape, gate=gate)
    assert_all_close(all_results(export_backend.xattnres, case), all_results(reference.xattnres, case), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_has_float32_logits(dtype):
    """Squares of the values are beyond float16."""
    case = make("decoder", dtype, scale=200)
    out, alpha = export_backend.xattnres(*case)
    assert (out.dtype, alpha.dtype) == (dtype, torch.float32)
    expected = reference.xattnres(*case.to(torch.float64))[0]
    assert (out - expected).norm() < 4 * torch.finfo(dtype).eps * expected.norm()


def test_autocast_has_float32_logits():
    case = make("identity at low resolution", torch.float32, scale=30)
    expected = export_backend.xattnres(*case)[1]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(export_backend.xattnres(*case)[1], expected, rtol=1e-5, atol=1e-6)


class Stage(nn.Module):
    """A layer with a history above, at and below the resolution of x, and with x in two parts."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.skip = nn.Conv2d(2, 2, 3, stride=2, padding=1)
        self.down = nn.Conv2d(2, 4, 3, stride=8, padding=1)
        self.layer = XAttnRes([4, 6, 4], 6, init="normal", **options)

    def forward(self, image):
        first, skip = self.first(image), self.skip(image)
        parts = F.avg_pool2d(first, 2), skip
        return self.layer(History([first, torch.cat(parts, 1), self.down(image)]), parts)


def traced(stage, image):
    """Traced, saved and loaded, as another process has it."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(stage, image), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def exported(stage, image, strict=False):
    sides = {0: Dim("batch", max=8), 2: 8 * Dim("h", min=2, max=64), 3: 8 * Dim("w", min=2, max=64)}
    program = torch.export.export(stage, (image,), dynamic_shapes=(sides,), strict=strict)
    assert not any("nnunet_xattnres" in str(node.target) for node in program.graph.nodes)
    return program.module()


EXPORTERS = {
    "torch.jit.trace": pytest.param(traced, marks=torchscript),
    "torch.export": exported,
    "torch.export strict": pytest.param(partial(exported, strict=True), marks=pytest.mark.slow),
}


@pytest.mark.parametrize("export", EXPORTERS.values(), ids=EXPORTERS)
@pytest.mark.parametrize("gate", [False, True], ids=["no gate", "gate"])
def test_other_sizes_than_the_exported_one(export, gate):
    stage = Stage(gate=gate).eval()
    if gate:
        nn.init.constant_(stage.layer.gate, 0.7)
    graph = export(stage, torch.randn(2, 2, 32, 16))
    for size in ((2, 2, 32, 16), (1, 2, 16, 48), (3, 2, 64, 64)):
        image = torch.randn(size)
        torch.testing.assert_close(graph(image), stage(image), rtol=1e-5, atol=1e-6)


def test_an_exported_graph_has_the_gradients():
    stage = Stage(gate=True)
    nn.init.constant_(stage.layer.gate, 0.7)
    graph, image = exported(stage, torch.randn(2, 2, 16, 16)), torch.randn(1, 2, 24, 16)
    for module in (stage, graph):
        module(image).square().sum().backward()
    expected = dict(stage.named_parameters())
    assert expected.keys() == dict(graph.named_parameters()).keys()
    for name, parameter in graph.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4, msg=name)


@torchscript
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_graph_does_not_depend_on_the_backend(backend, monkeypatch):
    monkeypatch.setenv("XATTNRES_BACKEND", backend)
    monkeypatch.setattr(custom_op, "_compute", lambda *_: pytest.fail("the operator was called"))
    for stage in (Stage(), Stage(backend=backend)):
        graph = torch.jit.trace(stage, torch.randn(1, 2, 16, 16), check_trace=False).inlined_graph
        assert "nnunet_xattnres::" not in str(graph)


@torchscript
def test_a_wrong_history_is_refused_while_a_network_is_traced():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = XAttnRes([4], 4)

        def forward(self, x):
            return self.layer([x[:, :3]], x)

    with pytest.raises(ValueError, match=r"history\[0\] must have shape \(1, 4, \*, \*\), got \(1, 3, 8, 8\)"):
        torch.jit.trace(Wrong(), torch.randn(1, 4, 8, 8))


@torchscript
@pytest.mark.parametrize("size", [(7, 11), (13, 9)], ids=str)
def test_windows_that_overlap(size):
    """Pooling whose windows have no common length, of sizes that are known when the graph is made, and of others."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.layer = nn.Conv2d(3, 3, 3, stride=2, padding=1), XAttnRes([3], 3, init="normal")

        def forward(self, image):
            return self.layer([image], self.down(image))

    odd = Odd().eval()
    graph = traced(odd, torch.randn(1, 3, 7, 11))
    image = torch.randn(1, 3, *size)
    torch.testing.assert_close(graph(image), odd(image), rtol=1e-5, atol=1e-6)


def test_compiled_code_keeps_the_operator():
    """torch.compile is no export: its code has the operator, whose memory training needs."""
    targets = []

    def record(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    torch.compile(Stage(), backend=record, fullgraph=True)(torch.randn(1, 2, 16, 16))
    assert any(target.startswith("nnunet_xattnres.forward") for target in targets)


def test_after_an_export_the_operator_computes_again(monkeypatch):
    monkeypatch.setattr(custom_op, "used_backends", set())
    stage = Stage()
    exported(stage, torch.randn(2, 2, 16, 16))
    assert not custom_op.used_backends
    stage(torch.randn(1, 2, 16, 16))
    assert custom_op.used_backends
