"""Parameters and multiply-adds of the papers' networks as implemented here, and the published ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from ..networks.csap import CSAP
from ..networks.emcad import EMCAD
from ..networks.paper_unet import PaperUNet
from ..utils.multiply_adds import count_multiply_adds
from .accuracy import published

SIDE = 256
"""Height and width of the image, in pixels, for which operations are counted, as in the paper."""

CSAP_SIDE, CSAP_CLASSES = 512, 150
"""Height and width of the image, and number of classes, for which CSAP is counted, those of ADE20K, as in its paper."""

# input channels and constructor; the EMCAD paper counts its network with one input channel
_NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "U-Net": (3, lambda: PaperUNet(3, 1, encoder=False, decoder=False)),
    "U-Net (no skip)": (3, lambda: PaperUNet(3, 1, skip=False, encoder=False, decoder=False)),
    "U-Net + XAttnRes (replace)": (3, lambda: PaperUNet(3, 1, skip=False, backend="torch")),
    "U-Net + XAttnRes (both)": (3, lambda: PaperUNet(3, 1, backend="torch")),
    "U-Net + XAttnRes (encoder)": (3, lambda: PaperUNet(3, 1, skip=False, decoder=False, backend="torch")),
    "U-Net + XAttnRes (decoder)": (3, lambda: PaperUNet(3, 1, skip=False, encoder=False, backend="torch")),
    "U-Net + XAttnRes (encoder) + skips": (3, lambda: PaperUNet(3, 1, decoder=False, backend="torch")),
    "U-Net + XAttnRes (decoder) + skips": (3, lambda: PaperUNet(3, 1, encoder=False, backend="torch")),
    "U-Net + XAttnRes (both, gated: ours)": (3, lambda: PaperUNet(3, 1, gate=True, backend="torch")),
    "EMCAD": (1, lambda: EMCAD(1, 1, False, decoder=False)),
    "EMCAD (no skip)": (1, lambda: EMCAD(1, 1, False, decoder=False, skip=False)),
    "EMCAD + XAttnRes (replace)": (1, lambda: EMCAD(1, 1, False, skip=False, backend="torch")),
    "EMCAD + XAttnRes (both)": (1, lambda: EMCAD(1, 1, False, backend="torch")),
    "EMCAD + XAttnRes (both, gated: ours)": (1, lambda: EMCAD(1, 1, False, gate=True, backend="torch")),
    "CSAP": (3, lambda: CSAP(3, CSAP_CLASSES, decoder=False)),
    "CSAP + XAttnRes (ours)": (3, lambda: CSAP(3, CSAP_CLASSES, backend="torch")),
}
# the names of the networks in the paper's Table 2
_PRINTED_AS = {
    "U-Net": "U-Net",
    "U-Net + XAttnRes (both)": "UNet + XAttnRes",
    "EMCAD": "EMCAD",
    "EMCAD + XAttnRes (both)": "EMCAD + XAttnRes",
}
# the paper of CSAP prints its GFLOPs in the abstract
_PRINTED_GMACS = {"CSAP": 5.5}

REMARKS = (
    "GMACs: 1e9 multiply-adds of convolutions and linear layers, the projections of XAttnRes among them "
    "(torch.utils.flop_counter, halved). The products inside PVTv2's attention are counted apart.",
    "The paper prints FLOPs and names no counter. thop, which adds normalisation, pooling and interpolation and leaves "
    "the products inside attention out, gives 2.50 for the U-Net, as printed, and 5.58 for EMCAD.",
    "EMCAD + XAttnRes is printed as EMCAD + 1.33 M. No reading of the paper's text gives that: one 1x1 projection for "
    "every history entry of another width, in the four decoder stages, is what is counted here.",
    "One class; U-Net with 3 input channels, EMCAD with 1, as its paper counts it. XAttnRes's projections have biases.",
    "CSAP has 150 classes and 3 input channels (arXiv 2604.05431, which prints GFLOPs and names no counter). With its "
    "output projections after Up(A V), as the formula reads, it has 5.31 GMACs, attention included; here they are "
    "computed before Up, with the same results.",
)
"""How the figures are counted, and where they differ from the published ones."""


@dataclass(frozen=True)
class Size:
    """Size of a network as implemented here, and as published if the paper has it; multiply-adds at side x side."""

    network: str
    side: int
    parameters: int
    macs: int
    attention_macs: int
    paper_parameters_m: float | None = None
    paper_gmacs: float | None = None

    @property
    def parameters_difference_m(self) -> float | None:
        """Parameters here minus those of the paper, in millions."""
        return None if self.paper_parameters_m is None else self.parameters / 1e6 - self.paper_parameters_m

    @property
    def gmacs_difference(self) -> float | None:
        """Multiply-adds here minus those of the paper, in 1e9."""
        return None if self.paper_gmacs is None else self.macs / 1e9 - self.paper_gmacs


def sizes() -> list[Size]:
    """Count every network of the paper, those with gates, which are not the paper's, and CSAP."""
    return [_count(name) for name in _NETWORKS]


@cache
def _count(name: str) -> Size:
    channels, build = _NETWORKS[name]
    side = CSAP_SIDE if name.startswith("CSAP") else SIDE
    with torch.device("meta"):  # shapes without values: nothing is computed
        network, image = build().eval(), torch.zeros(1, channels, side, side)
    printed = {p.metric: p.value for p in published(2) if p.method == _PRINTED_AS.get(name)}
    return Size(
        name,
        side,
        sum(p.numel() for p in network.parameters()),
        *count_multiply_adds(network, image),
        printed.get("parameters (M)"),
        printed.get("GFLOPs", _PRINTED_GMACS.get(name)),
    )
