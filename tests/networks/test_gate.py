"""Networks with a gate in every layer: they start as the network without layers, and the gates are trained."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from support import csap, emcad, plans

from nnunet_xattnres import PaperUNet, XAttnRes

STOCK = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}


def build(name, **options):
    """A network with three output channels for images of two."""
    torch.manual_seed(0)
    if name == "PaperUNet":
        return PaperUNet(2, 3, **options)
    if name == "EMCAD":
        with emcad.small_encoder():
            return emcad.build(2, 3, **options)
    if name == "CSAP":
        with csap.small_encoder():
            return csap.build(2, 3, **options)
    return plans.build(name, **options)


def without_layers(name):
    """The stock network where there is one."""
    if name in plans.PLANS:
        return plans.build(name, STOCK)
    return build(name, decoder=False) if name in ("EMCAD", "CSAP") else build(name, encoder=False, decoder=False)


def image(name):
    size = (64, 64) if name in ("EMCAD", "CSAP") else (16,) * plans.PLANS[name][1] if name in plans.PLANS else (32, 32)
    return torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(0))


def outputs(network, x):
    result = network(x)
    return result if isinstance(result, list) else [result]


def gates(network):
    return {n: p for n, p in network.named_parameters() if n.rpartition(".")[2] == "gate"}


@pytest.fixture(params=[*plans.PLANS, "PaperUNet", "EMCAD", "CSAP"])
def name(request):
    return request.param


def test_a_new_network_is_the_one_without_layers_bit_for_bit(name):
    stock, gated = without_layers(name).eval(), build(name, gate=True, init="normal").eval()
    missing, unexpected = gated.load_state_dict(stock.state_dict(), strict=False)
    assert unexpected == []
    assert all("xattnres." in key for key in missing)
    with torch.no_grad():
        expected, actual = outputs(stock, image(name)), outputs(gated, image(name))
    assert len(actual) == len(expected)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    # with open gates it is another network
    with torch.no_grad():
        for gate in gates(gated).values():
            gate.fill_(0.5)
        assert not torch.equal(outputs(gated, image(name))[0], expected[0])


def test_every_layer_has_a_gate_and_only_if_asked(name):
    ungated, gated = build(name), build(name, gate=True)
    layers = [n for n, module in gated.named_modules() if isinstance(module, XAttnRes)]
    assert [*gates(gated)] == [f"{n}.gate" for n in layers]
    assert all(g.shape == () and g.dtype == torch.float32 and g == 0 for g in gates(gated).values())
    assert {*gated.state_dict()} - {*gates(gated)} == {*ungated.state_dict()}


def test_training_opens_the_gates_and_then_trains_the_layers(name):
    network, x = build(name, gate=True).double(), image(name).double()
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            if parameter_name.endswith("pseudo_query"):
                parameter.zero_()  # the initial value, which the EMCAD of the tests does not have
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.99, nesterov=True)
    layers = {n: p for n, p in network.named_parameters() if "xattnres." in n}
    # of the paper's U-Net, the first layer sees x twice: its output is x, whatever its parameters are
    fixed = {n for n in layers if name == "PaperUNet" and n.startswith("xattnres.1.")}
    trained = []
    for _ in range(3):
        optimizer.zero_grad()
        sum(o.square().mean() for o in outputs(network, x)).backward()
        trained.append({n for n, p in layers.items() if p.grad.abs().max() > 1e-20} - fixed)
        optimizer.step()
    # the gates alone; then all but the gains, which have no gradient while the pseudo-queries are 0; then all
    gains = {n for n in layers if n.endswith("norm_weight")}
    assert trained == [{*gates(network)} - fixed, {*layers} - gains - fixed, {*layers} - fixed]


@pytest.mark.parametrize("name", ["plain 2d"])
def test_it_compiles_to_one_graph_and_trains(name):
    network, x = build(name, gate=True, init="normal"), image(name)
    with torch.no_grad():
        for gate in gates(network).values():
            gate.fill_(0.3)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    results = []
    for run in (network, compiled):
        network.zero_grad()
        logits = outputs(run, x)
        sum(o.square().mean() for o in logits).backward()
        results.append([*logits, *(p.grad for p in gates(network).values())])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
