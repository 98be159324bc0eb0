"""The paper's U-Net against a literal implementation of Eqs. 9 to 11, and its published sizes (Table 2)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres import PaperUNet, XAttnRes

WIDTHS = [18, 36, 72, 144, 144]
DECODER = [72, 36, 18, 18]
BASELINE = {"encoder": False, "decoder": False}


def double_conv(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class LiteralUNet(nn.Module):
    """Max pooling, double convolutions, bilinear x2, concat[up; skip]; optionally with XAttnRes in every stage."""

    def __init__(self, xattnres, skip=True):
        super().__init__()
        self.skip = skip
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in zip([3, *WIDTHS], WIDTHS, strict=False))
        skips, ups = WIDTHS[-2::-1], [WIDTHS[-1], *DECODER]
        inputs = [up + skip * width for width, up in zip(skips, ups, strict=False)]
        self.decoder = nn.ModuleList(double_conv(i, o) for i, o in zip(inputs, DECODER, strict=True))
        self.head = nn.Conv2d(DECODER[-1], 1, 1)
        self.layers = None
        if xattnres:
            self.layers = nn.ModuleList(XAttnRes(WIDTHS[:s], WIDTHS[s - 1], backend="torch") for s in range(1, 5))
            self.layers += [XAttnRes(WIDTHS + DECODER[:s], inputs[s], backend="torch") for s in range(4)]

    def forward(self, x):
        outputs = []
        for s, stage in enumerate(self.encoder):
            if s:
                x = F.max_pool2d(x, 2)
                if self.layers:
                    x = self.layers[s - 1](outputs, x)
            x = stage(x)
            outputs.append(x)
        for s, stage in enumerate(self.decoder):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            if self.skip:
                x = torch.cat([x, outputs[3 - s]], 1)
            if self.layers:
                x = self.layers[4 + s](outputs, x)
            x = stage(x)
            outputs.append(x)
        return self.head(x)


@pytest.mark.parametrize("skip", [True, False], ids=["skips", "no skips"])
@pytest.mark.parametrize("xattnres", [False, True], ids=["alone", "with XAttnRes"])
def test_it_computes_the_equations(xattnres, skip):
    torch.manual_seed(0)
    literal = LiteralUNet(xattnres, skip).double()
    ours = PaperUNet(3, 1, skip=skip, backend="torch", **({} if xattnres else BASELINE)).double()
    weights, names = literal.state_dict(), ours.state_dict()
    assert len(weights) == len(names)  # in the same order in both
    for layer in literal.layers or ():
        nn.init.normal_(layer.pseudo_query)
    ours.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(ours(x), literal(x), rtol=1e-9, atol=1e-9)


def millions(network):
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_sizes_of_the_paper():
    """The paper prints 1.06 M and 1.28 M. The projections here have biases, 0.0032 M parameters in total."""
    baseline, both = PaperUNet(3, 1, **BASELINE), PaperUNet(3, 1)
    biases = sum(p.numel() for n, p in both.named_parameters() if "projections" in n and n.endswith("bias")) / 1e6
    assert round(millions(baseline), 4) == 1.0624
    assert round(millions(both) - biases, 4) == 1.2785
    assert round(biases, 4) == 0.0032


def convolution_gmacs(network):
    """GMACs of the convolutions, including the projections of the layers."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 256, 256))
    return counter.get_total_flops() / 2e9


def test_convolutions_at_256x256():
    """The paper prints 2.50 and 2.87 G with other operations; projections at full size would add 1.80 G, not 0.35."""
    baseline, ours = (convolution_gmacs(PaperUNet(3, 1, **options)) for options in (BASELINE, {}))
    assert baseline == pytest.approx(2.470, abs=0.001)
    assert ours - baseline == pytest.approx(0.347037696, abs=1e-9)  # summed by hand over the projections


def test_a_size_that_16_does_not_divide():
    network = PaperUNet(3, 2).eval()
    x = torch.randn(1, 3, 37, 48)
    padded = F.pad(x, (0, 0, 0, 11), mode="replicate")
    assert torch.equal(network(x), network(padded)[:, :, :37])


def test_wrong_input_and_options():
    with pytest.raises(ValueError, match=r"^PaperUNet: .*4-D.*\(3, 16, 16\)"):
        PaperUNet(3, 1)(torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match=r"PaperUNet.*deep_supervision=False"):
        PaperUNet(3, 1, True)
    with pytest.raises(ValueError, match=r"\bskips\b.*\bskip\b.*\bencoder\b"):
        PaperUNet(3, 1, skips=False)


@pytest.mark.slow
def test_it_compiles_to_one_graph():
    network, x = PaperUNet(3, 2).eval(), torch.randn(1, 3, 32, 40)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))
