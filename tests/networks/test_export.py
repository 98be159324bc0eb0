"""Traced and exported networks compute what the networks compute, in ONNX Runtime as well, on images of other sizes."""

import io

import onnxruntime
import pytest
import torch
from support import csap, emcad, plans
from torch import nn
from torch.export import Dim

from nnunet_xattnres import XAttnRes
from nnunet_xattnres.networks.csap_planned import CSAP_PLANNED_UNETS
from nnunet_xattnres.networks.paper_unet import PaperUNet
from nnunet_xattnres.networks.usema import USEMA_UNETS

torchscript = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning",
    # of PyTorch and timm themselves, of conditions that depend on a size
    "ignore::torch.jit.TracerWarning:torch", "ignore::torch.jit.TracerWarning:timm",
    # of PyTorch's instance normalisation, which normalises an image by its own statistics in evaluation mode as well
    "ignore:ONNX export mode is set to TrainingMode.EVAL:UserWarning",
)  # fmt: skip
"""torch.jit.trace and the exporter that uses it are deprecated, but not removed."""


def build_planned(kind, **options):
    return plans.build(kind, deep_supervision=False, **options)


def build_emcad(**options):
    with emcad.small_encoder():
        return emcad.build(2, 3, deep_supervision=False, **options)


def build_csap(**options):
    with csap.small_encoder():
        return csap.build(2, 3, **options)


def build_csap_planned(kind, **options):
    return plans.build(kind, CSAP_PLANNED_UNETS, deep_supervision=False, **options)


NETWORKS = {
    # name: what builds it, a size and the sizes to which the graph is applied then
    "plain 2d": (lambda: build_planned("plain 2d"), (16, 24), [(16, 24), (32, 40)]),
    "plain 2d replace": (lambda: build_planned("plain 2d", skip=False), (16, 24), [(32, 40)]),
    "plain 2d upsampled": (lambda: build_planned("plain 2d", decoder_input="upsampled"), (16, 24), [(32, 40)]),
    "resenc 2d gated": (lambda: build_planned("resenc 2d", gate=True), (16, 24), [(32, 40)]),
    "USEMA": (lambda: build_planned("plain 2d", classes=USEMA_UNETS, window=3), (16, 24), [(16, 24), (32, 40)]),
    "USEMA 3d": (lambda: build_planned("resenc 3d", classes=USEMA_UNETS, window=3), (8, 16, 12), [(12, 8, 16)]),
    "plain 3d gated": (
        lambda: build_planned("plain 3d anisotropic", gate=True),
        (8, 16, 12),
        [(8, 16, 12), (12, 8, 16)],
    ),
    "resenc 3d": (lambda: build_planned("resenc 3d"), (8, 16, 12), [(12, 8, 16)]),
    # these pad images whose sides are no multiples of 16 or 32
    "PaperUNet": (lambda: PaperUNet(2, 3), (40, 48), [(40, 48), (50, 61)]),
    "EMCAD gated": (lambda: build_emcad(gate=True), (64, 90), [(64, 90), (50, 61)]),
    "EMCAD no skip": (lambda: build_emcad(skip=False), (64, 64), [(50, 61)]),
    "CSAP": (lambda: build_csap(decoder=False), (70, 130), [(70, 130), (96, 161)]),
    "CSAP XAttnRes": (build_csap, (70, 130), [(96, 161)]),
    "planned CSAP 2d": (lambda: build_csap_planned("plain 2d"), (16, 24), [(32, 40)]),
    "planned CSAP 3d": (lambda: build_csap_planned("plain 3d anisotropic"), (8, 16, 12), [(12, 8, 16)]),
}
DEFAULT = ["resenc 2d gated", "plain 3d gated", "PaperUNet"]
"""The default run has these; they have both numbers of axes, gates and padding."""


def all_but(default):
    return [pytest.param(name, marks=[] if name in default else pytest.mark.slow) for name in NETWORKS]


def make(name):
    """The network in evaluation mode, with layers that attend, an image of the first size, and the other sizes."""
    build, size, sizes = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, XAttnRes):
            nn.init.normal_(module.pseudo_query)
            if module.gate is not None:
                nn.init.constant_(module.gate, 0.7)
    return network, torch.randn(1, 2, *size), sizes


def assert_same(network, graph, sizes):
    for size in sizes:
        image = torch.randn(1, 2, *size)
        with torch.no_grad():
            expected = network(image)
        torch.testing.assert_close(graph(image), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def in_onnxruntime(model: bytes):
    """A function that computes the network of an ONNX file, which has no operators but those of the standard."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (argument,) = session.get_inputs()
    return lambda image: torch.from_numpy(session.run(None, {argument.name: image.numpy()})[0])


def dynamic_sides(name, image):
    """The sides of the image for torch.export: multiples of the strides of a planned network, any for the others."""
    if name.startswith(("PaperUNet", "EMCAD", "CSAP")):
        # CSAP pools to a grid of stride 64, and torch.export makes a graph of its own for a grid of one pixel
        smallest = 65 if name.startswith("CSAP") else 33
        return ({axis: Dim(f"side{axis}", min=smallest, max=512) for axis in (2, 3)},)
    return ({axis: 4 * Dim(f"multiple{axis}", min=2, max=128) for axis in range(2, image.ndim)},)


@torchscript
@pytest.mark.parametrize("name", all_but(["resenc 2d gated", "USEMA"]))
def test_traced(name):
    network, image, sizes = make(name)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, image, check_trace=False), buffer)
    buffer.seek(0)
    graph = torch.jit.load(buffer)
    assert "nnunet_xattnres::" not in str(graph.inlined_graph)
    assert_same(network, graph, sizes)


@torchscript
@pytest.mark.parametrize("name", all_but(DEFAULT))
def test_onnx_of_a_traced_network(name):
    network, image, sizes = make(name)
    buffer = io.BytesIO()
    axes = {"image": {axis: f"side{axis}" for axis in range(2, image.ndim)}}
    torch.onnx.export(network, (image,), buffer, dynamo=False, input_names=["image"], dynamic_axes=axes)
    assert_same(network, in_onnxruntime(buffer.getvalue()), sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain 2d replace", "EMCAD gated", "CSAP", "CSAP XAttnRes", "planned CSAP 3d", "USEMA", *DEFAULT]
)
def test_torch_export_and_its_onnx(name):
    network, image, sizes = make(name)
    program = torch.export.export(network, (image,), dynamic_shapes=dynamic_sides(name, image))
    assert not any("nnunet_xattnres" in str(node.target) for node in program.graph.nodes)
    assert_same(network, program.module(), sizes)
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    assert_same(network, in_onnxruntime(model), sizes)
