"""Before any speed is believed: the fast network computes what the literal equations say."""

import contextlib

import torch

from .cases import Case

TOLERANCE = 1e-8
"""What logits and gradients, computed in float64, may differ by, relative to the largest of them."""


TOLERANCE_AS_TIMED = {False: 1e-3, True: 0.1}
"""The same for the precision that is timed, without and with mixed precision; gradients are noisy there."""


def largest_error(
    case: Case, backend: str, device: torch.device, dtype: torch.dtype = torch.float64, amp: bool = False
) -> float:
    """Largest relative difference of logits and parameter gradients to the literal equations, by default in float64.

    The network is the case's `small()` one with every pseudo-query drawn at random: at zero, where training starts,
    every weight would be the same and a wrong one would not show.
    """
    small = case.small()
    torch.manual_seed(0)
    literal = small.build("reference").to(device, dtype)
    with torch.no_grad():
        for name, parameter in literal.named_parameters():
            if name.endswith("pseudo_query"):
                parameter.normal_()
    fast = small.build(backend).to(device, dtype)
    fast.load_state_dict(literal.state_dict())
    image = torch.randn(1, small.input_channels, *small.patch_size, dtype=dtype, device=device)
    results = [
        _logits_and_gradients(literal, image, contextlib.nullcontext()),
        _logits_and_gradients(fast, image, torch.autocast(device.type) if amp else contextlib.nullcontext()),
    ]
    return max(_relative(a, b) for a, b in zip(*results, strict=True))


def _logits_and_gradients(network: torch.nn.Module, image: torch.Tensor, precision) -> list[torch.Tensor]:
    with precision:
        logits = network(image)
    sum(scale.to(image.dtype).square().mean() for scale in logits).backward()
    # one tensor for all gradients: some are zero but for rounding, such as a bias before a normalisation
    gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
    return [*(scale.detach().to(image.dtype) for scale in logits), gradients]


def _relative(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()
