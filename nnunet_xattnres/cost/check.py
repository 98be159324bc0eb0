"""Comparison of a network with the reference equations, before its speed is measured."""

import contextlib

import torch

from .cases import Case

TOLERANCE_FLOAT64 = 1e-8
"""The largest accepted relative error of logits and gradients in float64."""

TOLERANCE_FLOAT32 = 1e-3
"""The largest accepted relative error in float32."""

TOLERANCE_AMP = 0.1
"""The largest accepted relative error in mixed precision, where gradients are noisy."""


def largest_error(
    case: Case, backend: str, device: torch.device, dtype: torch.dtype = torch.float64, amp: bool = False
) -> float:
    """The largest relative error of the logits and the parameter gradients against the reference equations.

        error = max over the tensors t of  max |t - t_reference| / max |t_reference|

    The network is `case.small()`. Its pseudo-queries are random: with the initial value of zero, all attention weights
    would be equal, and wrong weights would not be noticed.

    Args:
        case: the network.
        backend: the backend that is compared with the backend "reference".
        device: where both are computed.
        dtype: the precision of both networks.
        amp: whether the backend that is compared runs in mixed precision.
    """
    small = case.small()
    torch.manual_seed(0)
    reference = small.build("reference").to(device, dtype)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith("pseudo_query"):
                parameter.normal_()
    network = small.build(backend).to(device, dtype)
    network.load_state_dict(reference.state_dict())
    image = torch.randn(1, small.input_channels, *small.patch_size, dtype=dtype, device=device)
    precision = torch.autocast(device.type) if amp else contextlib.nullcontext()
    expected = _logits_and_gradients(reference, image, contextlib.nullcontext())
    actual = _logits_and_gradients(network, image, precision)
    return max(_relative_error(a, b) for a, b in zip(actual, expected, strict=True))


def _logits_and_gradients(
    network: torch.nn.Module, image: torch.Tensor, precision: contextlib.AbstractContextManager
) -> list[torch.Tensor]:
    """The logits of every scale, then all parameter gradients in one tensor.

    One tensor, because some gradients are zero apart from rounding, such as that of a bias before a normalisation.
    """
    with precision:
        logits = network(image)
    torch.stack([scale.to(image.dtype).square().mean() for scale in logits]).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    return [*(scale.detach().to(image.dtype) for scale in logits), gradients]


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()
