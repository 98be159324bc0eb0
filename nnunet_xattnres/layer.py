"""The XAttnRes layer: a module that holds the parameters of the operator."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .ops import BACKENDS, xattnres
from .ops.export_backend import static_shape
from .ops.upsampling import Parts, features_of

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}

INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": nn.init.zeros_,
    "normal": lambda w: nn.init.normal_(w, std=0.01),
    # these two need a matrix: the pseudo-query as a linear map from C channels to one logit
    "kaiming_uniform": lambda w: nn.init.kaiming_uniform_(w.unsqueeze(0)),
    "xavier_uniform": lambda w: nn.init.xavier_uniform_(w.unsqueeze(0)),
}
"""The initialisations of the pseudo-query (Table 5 of the paper)."""


class XAttnRes(nn.Module):
    r"""Cross-stage attention residual: attention to the outputs of all earlier stages and to x, at every pixel.

    .. math:: \text{XAttnRes}(H, x)(p) = \sum_n \alpha_n(p) V_n(p), \quad
              \alpha(p) = \text{softmax}_n\big(w^\top \text{RMSNorm}(V_n(p))\big), \quad
              V = [\phi_1(h_1); \ldots; \phi_K(h_K); x]

    where phi_k resizes h_k to the size of x (adaptive max pooling or linear interpolation) and projects it to C
    channels. A new layer has a pseudo-query w of zeros, so its output is the mean of the K+1 values.

    With `gate=True`, which is not in the paper, the layer learns by how much its output differs from x:

    .. math:: y(p) = x(p) + g\,\big(\text{XAttnRes}(H, x)(p) - x(p)\big), \quad
              \alpha' = g\,\alpha + (1 - g)\,[0; \ldots; 0; 1]

    One scalar g starts at 0, so a new layer returns x, and alpha' are the weights of the K+1 values in y.

    Args:
        history_channels: the channels C_1, ..., C_K of the history, oldest first; K >= 1.
        channels: the channels C of x and of the output.
        dim: the number of spatial axes, 2 or 3.
        init: the initialisation of the pseudo-query: "zero", "normal" (standard deviation 0.01), "kaiming_uniform" or
            "xavier_uniform".
        eps: added to the mean square under the root of RMSNorm.
        backend: "auto", "cpp", "reference", "torch" or "triton". None takes the environment variable XATTNRES_BACKEND
            at every call, and "auto" where that is not set.
        gate: learn the scalar g.

    Shapes:
        history: K tensors (B, C_k, *S_k) of any size, in a list or a `History`. x: (B, C, *S), or several tensors
        whose concatenation along the channels is x. Output: (B, C, *S).

    Attributes:
        pseudo_query: the parameter w, (C,).
        norm_weight: the gain of RMSNorm, a parameter (C,).
        gate: the parameter g, of shape (), or None.
        projections: K modules, the identity where C_k == C, else a 1x1 convolution with bias.

    Raises:
        ValueError: for an invalid argument, or for tensors whose shapes do not match the arguments.

    Example:
        >>> import torch
        >>> layer = XAttnRes(history_channels=[32, 64], channels=64)
        >>> history = [torch.randn(1, 32, 64, 64), torch.randn(1, 64, 16, 16)]
        >>> x = torch.randn(1, 64, 32, 32)
        >>> layer(history, x).shape
        torch.Size([1, 64, 32, 32])
        >>> layer.attention(history, x).shape
        torch.Size([1, 3, 32, 32])

    Source: arXiv 2604.03297, Eqs. 4-8, except for the gate.
    """

    _version = 1  # the layout version of the state dict

    def __init__(
        self,
        history_channels: Sequence[int],
        channels: int,
        dim: int = 2,
        init: str = "zero",
        eps: float = 1e-6,
        backend: str | None = None,
        gate: bool = False,
    ):
        super().__init__()
        if dim not in _CONV:
            raise ValueError(f"XAttnRes: dim must be 2 or 3 (spatial axes), got {dim!r}")
        if init not in INITS:
            raise ValueError(f"XAttnRes: init must be one of {', '.join(INITS)}, got {init!r}")
        if backend not in (None, *BACKENDS):
            raise ValueError(f"XAttnRes: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if isinstance(history_channels, int):
            raise ValueError(f"XAttnRes: history_channels must be a list of channels, got {history_channels}")
        if len(history_channels) == 0:
            raise ValueError("XAttnRes: history_channels is empty, but attention needs at least one earlier stage")
        if min(*history_channels, channels) < 1:
            raise ValueError(
                f"XAttnRes: all channels must be positive, got history_channels {list(history_channels)} "
                f"and channels {channels}"
            )
        self.history_channels = tuple(history_channels)
        self.channels = channels
        self.dim = dim
        self.init = init
        self.eps = eps
        self.backend = backend
        self.pseudo_query = nn.Parameter(torch.empty(channels))
        self.norm_weight = nn.Parameter(torch.ones(channels))
        self.gate = nn.Parameter(torch.zeros(())) if gate else None
        self.projections = nn.ModuleList(
            nn.Identity() if width == channels else _CONV[dim](width, channels, kernel_size=1)
            for width in history_channels
        )
        with torch.no_grad():
            INITS[init](self.pseudo_query)

    def forward(self, history: Sequence[Tensor], x: Parts) -> Tensor:
        """The weighted sum of the values, (B, C, *S), Eq. 8, or y with a gate."""
        return self._attend(history, x)[0]

    def attention(self, history: Sequence[Tensor], x: Parts) -> Tensor:
        """The attention weights alpha, (B, K+1, *S), Eq. 7.

        They sum to 1 over the K+1 values. The first K are the weights of the history, the last one is that of x. With a
        gate they are alpha', which can be negative or larger than 1 if the gate is.
        """
        return self._attend(history, x)[1]

    def _attend(self, history: Sequence[Tensor], x: Parts) -> tuple[Tensor, Tensor]:
        self._check(history, features_of(x))
        projections = [_weight_and_bias(projection) for projection in self.projections]
        return xattnres(
            history, x, projections, self.pseudo_query, self.norm_weight, self.eps, self.backend, gate=self.gate
        )

    def _check(self, history: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        if len(parts) == 0:
            raise ValueError("XAttnRes: x must be a tensor or a non-empty list of tensors, got an empty list")
        shapes = [static_shape(part) for part in parts]
        x = shapes[0]
        for shape in shapes:
            if len(shape) != self.dim + 2:
                raise ValueError(
                    f"XAttnRes: x must be {self.dim + 2}-D (B, C, {self.dim} spatial axes), got shape {shape}"
                )
            if shape[0] != x[0] or shape[2:] != x[2:]:
                raise ValueError(
                    f"XAttnRes: the tensors of x must have the same batch and spatial size, got {_join(shapes)}"
                )
        if sum(shape[1] for shape in shapes) != self.channels:
            raise ValueError(f"XAttnRes: x must have {self.channels} channels, got {_join(shapes)}")
        if len(history) != len(self.history_channels):
            raise ValueError(f"XAttnRes: history must have {len(self.history_channels)} features, got {len(history)}")
        for k, width in enumerate(self.history_channels):
            # torch.compile in PyTorch 2.7 cannot trace a loop over a `History`
            shape = static_shape(history[k])
            if len(shape) != len(x) or shape[:2] != (x[0], width):
                expected = ", ".join(map(str, (x[0], width, *("*" * self.dim))))
                raise ValueError(f"XAttnRes: history[{k}] must have shape ({expected}), got {shape}")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        refuse_newer_version(self, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        history = list(self.history_channels)
        gate = "" if self.gate is None else ", gate=True"
        return f"history_channels={history}, channels={self.channels}, dim={self.dim}, init={self.init!r}{gate}"


def refuse_newer_version(module: nn.Module, local_metadata: dict[str, Any]) -> None:
    """Raise a RuntimeError for a state dict whose layout is newer than that of the module."""
    version = local_metadata.get("version")
    if version is not None and version > module._version:
        raise RuntimeError(
            f"{type(module).__name__}: the weights have layout version {version}, this nnunet-xattnres knows versions "
            f"up to {module._version}: update nnunet-xattnres to load them"
        )


def _weight_and_bias(projection: Any) -> tuple[Tensor, Tensor] | None:
    return None if isinstance(projection, nn.Identity) else (projection.weight, projection.bias)


def _join(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))
