"""Parameters and operations of the paper's networks as built here, beside the printed ones (Table 2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..networks.emcad import EMCAD
from ..networks.paper_unet import PaperUNet
from .accuracy import published

SIDE = 256
"""Side of the image, in pixels, at which operations are counted; the paper's are at this side, too."""

# EMCAD's own count is of one input channel, which it maps to three
_NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "U-Net": (3, lambda: PaperUNet(3, 1, encoder=False, decoder=False)),
    "U-Net (no skip)": (3, lambda: PaperUNet(3, 1, skip=False, encoder=False, decoder=False)),
    "U-Net + XAttnRes (replace)": (3, lambda: PaperUNet(3, 1, skip=False, backend="torch")),
    "U-Net + XAttnRes (both)": (3, lambda: PaperUNet(3, 1, backend="torch")),
    "U-Net + XAttnRes (encoder)": (3, lambda: PaperUNet(3, 1, skip=False, decoder=False, backend="torch")),
    "U-Net + XAttnRes (decoder)": (3, lambda: PaperUNet(3, 1, skip=False, encoder=False, backend="torch")),
    "U-Net + XAttnRes (encoder) + skips": (3, lambda: PaperUNet(3, 1, decoder=False, backend="torch")),
    "U-Net + XAttnRes (decoder) + skips": (3, lambda: PaperUNet(3, 1, encoder=False, backend="torch")),
    "EMCAD": (1, lambda: EMCAD(1, 1, False, decoder=False)),
    "EMCAD (no skip)": (1, lambda: EMCAD(1, 1, False, decoder=False, skip=False)),
    "EMCAD + XAttnRes (replace)": (1, lambda: EMCAD(1, 1, False, skip=False, backend="torch")),
    "EMCAD + XAttnRes (both)": (1, lambda: EMCAD(1, 1, False, backend="torch")),
}
_PRINTED_AS = {
    "U-Net": "U-Net",
    "U-Net + XAttnRes (both)": "UNet + XAttnRes",
    "EMCAD": "EMCAD",
    "EMCAD + XAttnRes (both)": "EMCAD + XAttnRes",
}

REMARKS = (
    "GMACs: 1e9 multiply-adds of convolutions and linear layers, the projections of XAttnRes among them "
    "(torch.utils.flop_counter, halved). The products inside PVTv2's attention are counted apart.",
    "The paper prints FLOPs and names no counter. thop, which adds normalisation, pooling and interpolation and leaves "
    "the products inside attention out, gives 2.50 for the U-Net, as printed, and 5.58 for EMCAD.",
    "EMCAD + XAttnRes is printed as EMCAD + 1.33 M. No reading of the paper's text gives that: one 1x1 projection for "
    "every history entry of another width, in the four decoder stages, is what stands here.",
    "One class; U-Net with 3 input channels, EMCAD with 1, as its paper counts it. XAttnRes's projections have biases.",
)
"""What the figures are."""


@dataclass(frozen=True)
class Size:
    """A network's size: ours, and the paper's where it prints one; MACs at SIDE x SIDE."""

    network: str
    parameters: int
    macs: int
    attention_macs: int
    paper_parameters_m: float | None = None
    paper_gmacs: float | None = None

    @property
    def parameters_difference_m(self) -> float | None:
        """Ours minus the paper's, in millions."""
        return None if self.paper_parameters_m is None else self.parameters / 1e6 - self.paper_parameters_m

    @property
    def gmacs_difference(self) -> float | None:
        """Ours minus the paper's, in 1e9 multiply-adds."""
        return None if self.paper_gmacs is None else self.macs / 1e9 - self.paper_gmacs


def sizes() -> list[Size]:
    """Count every network of the paper; some seconds on a CPU."""
    printed = {(p.method, p.metric): p.value for p in published(2)}
    found = []
    for name, (channels, build) in _NETWORKS.items():
        network = build().eval()
        # of the attention operators, some versions of PyTorch count the plain one alone
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, channels, SIDE, SIDE))
        flops = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
        attention = sum(count for operation, count in flops.items() if "attention" in operation or "bmm" in operation)
        method = _PRINTED_AS.get(name)
        found.append(
            Size(
                name,
                sum(p.numel() for p in network.parameters()),
                (sum(flops.values()) - attention) // 2,
                attention // 2,
                printed.get((method, "parameters (M)")),
                printed.get((method, "GFLOPs")),
            )
        )
    return found
