"""XAttnResStages: the selection of the layer, the memory of training, and the layouts of the state dict."""

import io

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from nnunet_xattnres import History, XAttnRes, XAttnResStages


def features(*widths, size=8):
    return [torch.randn(2, width, size, size) for width in widths]


def test_the_length_of_the_history_selects_the_layer():
    stages = XAttnResStages([3, 4, 5, 4], {1: 3, 3: 6}, init="normal")
    assert {n: (layer.history_channels, layer.channels) for n, layer in stages.items()} == {
        "1": ((3,), 3), "3": ((3, 4, 5), 6),
    }  # fmt: skip
    outputs = features(3, 4, 5)
    for n, width in ((1, 3), (3, 6)):
        (x,) = features(width)
        expected = stages[str(n)](outputs[:n], x)
        assert torch.equal(stages(outputs[:n], x), expected)
        assert torch.equal(stages(History(outputs[:n]), x), expected)


def test_a_stage_without_a_layer_returns_x():
    stages = XAttnResStages([3, 4, 5], {})
    a, b = features(2, 3)
    assert stages([], a) is a
    assert torch.equal(stages(features(3), (a, b)), torch.cat([a, b], 1))


def test_arguments_reach_every_layer():
    stages = XAttnResStages([3, 4, 5], {1: 4, 2: 5}, 3, init="normal", eps=1e-3, backend="reference", gate=True)
    for layer in stages.values():
        assert isinstance(layer, XAttnRes)
        assert (layer.dim, layer.init, layer.eps, layer.backend) == (3, "normal", 1e-3, "reference")
        assert layer.gate is not None


@pytest.mark.parametrize("stage", [0, 2, -1])
def test_a_layer_at_the_first_stage_or_beyond_the_last_is_an_error(stage):
    with pytest.raises(ValueError, match=rf"query_channels.*stage {stage}$"):
        XAttnResStages([3, 4], {stage: 4})


def test_kept_elements():
    stages = XAttnResStages([3, 4, 3], {1: 4, 2: 7})
    # the outputs have 4 x 4² and 7 x 8² elements; h_0 is pooled to 4² for stage 1 and not pooled for stage 2
    sizes = [(8, 8), (4, 4), (8, 8)]
    assert stages.count_kept_elements(sizes) == 4 * 16 + 7 * 64 + 3 * 16
    assert stages.count_kept_elements(sizes, replacing=[2]) == 4 * 16 + 3 * 16


@pytest.mark.parametrize("length", [2, 3])
def test_a_history_that_is_too_long_is_an_error(length):
    stages = XAttnResStages([3, 4], {1: 4})
    with pytest.raises(ValueError, match=rf"\b2 stages.*\b{length} outputs"):
        stages(features(3, 4, 4)[:length], features(4)[0])


class UNet(nn.Module):
    """A U-Net of three stages with a layer in every stage but the first.

    `recompute` names the parts under activation checkpointing: the numbers of stages, or "decoder".
    """

    def __init__(self, dim=2, recompute=(), use_reentrant=False):
        super().__init__()
        convolution, transposed = (nn.Conv2d, nn.ConvTranspose2d) if dim == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.stem = convolution(1, 3, 3, padding=1)
        self.down = nn.ModuleList(convolution(i, o, 3, stride=2, padding=1) for i, o in ((3, 4), (4, 6)))
        self.up = nn.ModuleList(transposed(i, o, 2, stride=2) for i, o in ((6, 4), (4, 3)))
        self.convs = nn.ModuleList(convolution(2 * c, c, 3, padding=1) for c in (4, 3))
        self.xattnres = random_parameters(XAttnResStages(WIDTHS, {1: 4, 2: 6, 3: 8, 4: 6}, dim))
        self.recompute, self.use_reentrant = recompute, use_reentrant
        self.history = History()

    def forward(self, image):
        self.history = history = History([self.stem(image).relu()])
        for n in (1, 2):
            history.append(self.run(n, history))
        if "decoder" not in self.recompute:
            return self.decode(history)
        if self.use_reentrant:
            return checkpoint(lambda *outputs: self.decode(History(outputs)), *history, use_reentrant=True)
        return checkpoint(self.decode, history, use_reentrant=False)

    def decode(self, history):
        history = history.first(3)
        for n in (3, 4):
            history.append(self.run(n, history))
        return history[-1]

    def run(self, n, history):
        """The output of stage n."""
        if n not in self.recompute:
            return self.stage(n, history)
        if self.use_reentrant:
            return checkpoint(lambda *outputs: self.stage(n, outputs, n), *history, use_reentrant=True)
        return checkpoint(self.stage, n, history, n, use_reentrant=False)

    def stage(self, n, history, number=None):
        outputs = history[:n]
        if n <= 2:
            return self.xattnres(history, self.down[n - 1](outputs[-1]), number).relu()
        x = (self.up[n - 3](outputs[-1]), history[4 - n])
        return self.convs[n - 3](self.xattnres(history, x, stage=number)).relu()


def results_and_kept_bytes(network, image):
    """The output and the gradient of every parameter; the bytes kept for backward and in the history."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for parameter in network.parameters():
        parameter.grad = None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(image)
    for tensor in (*network.history, *(copy.tensor for copies in network.history._copies for copy in copies)):
        keep(tensor)
    for parameter in (image, *network.parameters()):
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    # the output of the network is kept anyway
    kept.pop(output.untyped_storage().data_ptr(), None)
    output.square().sum().backward()
    return {"output": output} | {n: p.grad for n, p in network.named_parameters()}, sum(kept.values())


RECOMPUTED = {
    "an encoder stage": (1,), "the bottleneck": (2,), "a decoder stage": (3,), "the last stage": (4,),
    "all stages": (1, 2, 3, 4), "the decoder": ("decoder",), "the decoder and its stages": ("decoder", 3, 4),
    "an encoder stage and the decoder": (1, "decoder"),
}  # fmt: skip


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("recompute", RECOMPUTED.values(), ids=RECOMPUTED.keys())
@pytest.mark.parametrize("dim", [2, 3])
def test_activation_checkpointing(dim, recompute, use_reentrant):
    torch.manual_seed(0)
    network = UNet(dim).double()
    checkpointed = UNet(dim, recompute, use_reentrant).double()
    checkpointed.load_state_dict(network.state_dict())
    # batch of one: the layers' outputs are large compared with the rest
    image = torch.randn(1, 1, *(16, 24, 8)[:dim], dtype=torch.float64)
    expected, kept = results_and_kept_bytes(network, image)
    actual, kept_with_checkpoints = results_and_kept_bytes(checkpointed, image)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-10, msg=f"{name} differs")
        assert value.abs().sum() > 0
    assert kept_with_checkpoints < kept


def test_a_compiled_network_with_activation_checkpointing():
    torch.manual_seed(0)
    torch.compiler.reset()
    network = UNet(recompute=(1, 3)).double()
    image = torch.randn(1, 1, 16, 24, dtype=torch.float64)
    expected, _ = results_and_kept_bytes(network, image)
    network.zero_grad()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    compiled(image).square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-10)


def test_the_number_of_a_stage():
    stages = XAttnResStages([3, 4, 5, 4], {1: 3, 3: 6}, init="normal")
    outputs = features(3, 4, 5, 4)
    for n, width in ((1, 3), (3, 6)):
        (x,) = features(width)
        expected = stages[str(n)](outputs[:n], x)
        assert torch.equal(stages(outputs, x, stage=n), expected)
        assert torch.equal(stages(History(outputs), x, stage=n), expected)
    (x,) = features(7)
    assert stages(outputs, x, stage=0) is x
    assert stages(History(outputs), x, stage=2) is x


@pytest.mark.parametrize("kind", [list, History])
@pytest.mark.parametrize("stage", [-1, 3, 4])
def test_a_stage_that_does_not_exist_or_whose_earlier_stages_have_not_run_is_an_error(stage, kind):
    stages = XAttnResStages([3, 4, 5, 4], {1: 3, 3: 6})
    with pytest.raises(ValueError, match=rf"stage must be.*\b2\b.*{stage}$"):
        stages(kind(features(3, 4)), features(6)[0], stage=stage)


def test_an_error_of_a_checkpointed_stage_without_its_number():
    """The history is full when the stage runs again."""
    stages = XAttnResStages([3, 4], {1: 3})
    conv = nn.Conv2d(3, 4, 1)
    history = History([feature.requires_grad_() for feature in features(3)])
    history.append(checkpoint(lambda x: conv(stages(history, x)), features(3)[0], use_reentrant=False))
    with pytest.raises(ValueError, match=r"stage=n"):
        history[-1].sum().backward()


def test_a_compiled_network_takes_images_of_other_sizes():
    torch.manual_seed(0)
    torch.compiler.reset()
    network, counter = UNet().double(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for size in ((16, 24), (32, 40), (24, 56)):
        image = torch.randn(1, 1, *size, dtype=torch.float64)
        results = []
        for function in (compiled, network):
            output = function(image)
            results.append((output, *torch.autograd.grad(output.square().sum(), list(network.parameters()))))
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    # one graph for the first size, and one for all others
    assert counter.frame_count == 2


# the state dict

WIDTHS = [3, 4, 6, 4, 3]  # of a U-Net with three encoder and two decoder stages
QUERY_CHANNELS = {1: 4, 2: 6, 3: 8, 4: 6}


def random_parameters(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def stages_of_a_unet():
    return random_parameters(XAttnResStages(WIDTHS, QUERY_CHANNELS))


class Network(nn.Module):
    """The layers under the name that all networks give them."""

    def __init__(self, xattnres):
        super().__init__()
        self.head = nn.Conv2d(1, 1, 1)
        self.xattnres = xattnres


def saved_and_loaded(state_dict, weights_only=True):
    """The state dict as nnUNetPredictor reads it from a checkpoint: it keeps PyTorch's metadata."""
    buffer = io.BytesIO()
    torch.save({"network_weights": state_dict}, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)["network_weights"]


def copied_key_by_key(state_dict):
    """The state dict as nnU-Net's trainer copies it to continue a training: the metadata is lost."""
    return dict(saved_and_loaded(state_dict).items())


READERS = [saved_and_loaded, lambda state: saved_and_loaded(state, weights_only=False), copied_key_by_key]
READER_NAMES = ["weights_only", "pickle", "key by key"]


def layers_of_version_1():
    """The layers as the U-Nets of development versions held them."""
    layers = {n: XAttnRes(WIDTHS[:n], channels) for n, channels in QUERY_CHANNELS.items()}
    encoder, decoder = nn.ModuleDict({"1": layers[1], "2": layers[2]}), nn.ModuleDict({"0": layers[3], "1": layers[4]})
    return random_parameters(nn.ModuleDict({"encoder": encoder, "decoder": decoder})), layers


def test_state_dict_has_the_parameters_of_the_layers_and_nothing_else():
    stages = stages_of_a_unet()
    names = [name for name, _ in stages.named_parameters()]
    assert list(stages.state_dict()) == names
    assert {name.split(".")[0] for name in names} == {"1", "2", "3", "4"}


def test_versions_are_in_the_metadata_of_the_state_dict():
    metadata = saved_and_loaded(Network(stages_of_a_unet()).state_dict())._metadata
    assert metadata["xattnres"] == {"version": 2}
    assert metadata["xattnres.1"] == {"version": 1}


@pytest.mark.parametrize("read", READERS, ids=READER_NAMES)
def test_state_dict_round_trip(read):
    source, target = Network(stages_of_a_unet()), Network(stages_of_a_unet())
    target.load_state_dict(read(source.state_dict()))
    for name, parameter in source.named_parameters():
        assert torch.equal(target.get_parameter(name), parameter)


@pytest.mark.parametrize("read", READERS, ids=READER_NAMES)
@pytest.mark.parametrize("wrap", [Network, lambda stages: stages], ids=["in a network", "alone"])
def test_state_dict_of_version_1_is_converted(read, wrap):
    old, layers = layers_of_version_1()
    target = wrap(stages_of_a_unet())
    state = wrap(old).state_dict()
    assert any("decoder.1.pseudo_query" in key for key in state)
    target.load_state_dict(read(state))
    stages = target.xattnres if wrap is Network else target
    for n, layer in layers.items():
        for name, parameter in layer.named_parameters():
            assert torch.equal(stages[str(n)].get_parameter(name), parameter)


def test_loading_version_1_does_not_change_the_state_dict():
    state = layers_of_version_1()[0].state_dict()
    keys = list(state)
    stages_of_a_unet().load_state_dict(state)
    assert list(state) == keys


def test_a_layer_of_version_1_that_does_not_exist_is_still_an_error():
    stages = XAttnResStages(WIDTHS, {1: 4, 2: 6})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*\b3\.pseudo_query"):
        stages.load_state_dict(layers_of_version_1()[0].state_dict())


def test_version_1_is_refused_where_the_number_of_decoder_stages_is_unknown():
    stages = XAttnResStages([*WIDTHS, 3], QUERY_CHANNELS)
    with pytest.raises(RuntimeError, match=r"encoder\.1\.pseudo_query.*6 stages") as error:
        stages.load_state_dict(layers_of_version_1()[0].state_dict())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", [XAttnResStages, XAttnRes])
@pytest.mark.parametrize("read", READERS[:2], ids=READER_NAMES[:2])
def test_a_newer_state_dict_is_refused(monkeypatch, module, read):
    known = module._version
    monkeypatch.setattr(module, "_version", known + 1)
    state = read(Network(stages_of_a_unet()).state_dict())
    monkeypatch.setattr(module, "_version", known)
    with pytest.raises(RuntimeError, match=rf"version {known + 1}\b.*update nnunet-xattnres") as error:
        Network(stages_of_a_unet()).load_state_dict(state)
    assert "\n" not in str(error.value)
