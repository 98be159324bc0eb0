"""Upsampled features that the backward pass computes again, instead of keeping them for it. Ours, not the paper's.

A decoder stage upsamples the output of the stage before it by a transposed convolution, and the operator needs the
result in the backward pass. The input of the convolution is kept anyway, and to compute its output again takes little
time (measured in docs/how-to/memory.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autocast import without_autocast

_MODULES = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONV_TRANSPOSE: dict[int, Any] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False)
class Upsampled:
    """The output of a transposed convolution whose stride is its kernel size, and what it was computed from.

    Args:
        feature: the output, (B, C, *S).
        source: the input, (B, C', *S').
        weight: (C', C, *strides).
        bias: (C,), or None.
    """

    feature: Tensor
    source: Tensor
    weight: Tensor
    bias: Tensor | None

    def operands(self) -> list[Tensor]:
        """The arguments of `upsample` that give the feature, without gradients."""
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        return [self.source.detach(), *(parameter.detach().to(self.feature.dtype) for parameter in parameters)]


Parts: TypeAlias = Tensor | Upsampled | Sequence[Tensor | Upsampled]
"""The input x of a layer: the feature, or several whose concatenation along the channels it is."""


def features_of(x: Parts) -> list[Tensor]:
    """The features whose concatenation is x."""
    return [part.feature if isinstance(part, Upsampled) else part for part in _parts(x)]


def operands_of_first(x: Parts, dtype: torch.dtype) -> list[Tensor]:
    """The arguments of `upsample` that give the first feature in a dtype, or nothing where that is not possible."""
    first = _parts(x)[0]
    return first.operands() if isinstance(first, Upsampled) and first.feature.dtype == dtype else []


def _parts(x: Parts) -> Sequence[Tensor | Upsampled]:
    return [x] if isinstance(x, (Tensor, Upsampled)) else x


def upsample(source: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The transposed convolution whose stride is its kernel size, computed in the dtype of the weight."""
    strides = weight.shape[2:]
    with without_autocast(source.device.type):
        return _CONV_TRANSPOSE[len(strides)](source.to(weight.dtype), weight, bias, strides)


def run_transposed_convolution(module: Any, source: Tensor) -> Tensor | Upsampled:
    """Call a module that upsamples a feature; its output is an `Upsampled` where `upsample` computes the same."""
    feature = module(source)
    return Upsampled(feature, source, module.weight, module.bias) if _is_plain(module) else feature


def _is_plain(module: Any) -> bool:
    """Whether `upsample` computes the output of a module."""
    # a subclass, as of a parametrization, may compute anything, and a hook may change the input or the output
    if type(module) not in _MODULES or module._forward_pre_hooks or module._forward_hooks:
        return False
    no_padding = not any((*module.padding, *module.output_padding))
    no_dilation = all(step == 1 for step in module.dilation)
    return module.stride == module.kernel_size and no_padding and no_dilation and module.groups == 1
