"""ImageNet weights for the encoders of EMCAD, PVTv2-B2, and of CSAP, MSCAN-T."""

from collections.abc import Callable
from pathlib import Path

import timm
import timm.models
from timm.models import adapt_input_conv
from timm.models.pvt_v2 import checkpoint_filter_fn
from torch import Tensor, nn

from .mscan import from_published_names

TIMM_NAME = "pvt_v2_b2.in1k"
"""Name of the weights in timm."""


class NotAvailableError(Exception):
    """The weights cannot be downloaded; the message has the reason."""


def load_imagenet(encoder: nn.Module, file: str | Path | None = None) -> str:
    """Load ImageNet weights into EMCAD's encoder, timm's pvt_v2_b2. If this fails, the encoder is unchanged.

    Args:
        encoder: `EMCAD(...).encoder`.
        file: weights as timm or the authors of PVTv2 publish them (.pth, .safetensors); None to have timm download
            them.

    Returns:
        The source of the weights, for the log.

    Raises:
        NotAvailableError: if `file` is None and timm cannot download the weights.
        ValueError: if `file` does not exist, cannot be read or does not fit the encoder.
    """
    if file is not None:
        hint = "expected the ImageNet weights of pvt_v2_b2, as timm or the authors of PVTv2 publish them"
        return _load_file(encoder, Path(file), _pvt_names, hint)
    try:
        source = timm.create_model(TIMM_NAME, pretrained=True, num_classes=0)
    except Exception as error:  # the download may raise an error of any type
        raise NotAvailableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    encoder.load_state_dict(source.state_dict())
    return f"timm's {TIMM_NAME}"


def load_mscan(encoder: nn.Module, file: str | Path | None) -> str:
    """Load ImageNet weights into CSAP's encoder, MSCAN-T. If this fails, the encoder is unchanged.

    The weights are for images of three channels. For one channel, the kernels of the first convolution are summed over
    theirs; for any other number they are repeated in turn, and scaled by 3 / channels, as timm does.

    Args:
        encoder: `CSAP(...).encoder`.
        file: weights as the authors of SegNeXt or OpenMMLab publish them (.pth, .safetensors).

    Returns:
        The source of the weights, for the log.

    Raises:
        NotAvailableError: if `file` is None, as there is no package to download the weights.
        ValueError: if `file` does not exist, cannot be read or does not fit the encoder.
    """
    if file is None:
        raise NotAvailableError("timm does not have them")
    hint = "expected the ImageNet weights of MSCAN-T, as the authors of SegNeXt publish them in mscan_t.pth"
    return _load_file(encoder, Path(file), _mscan_names, hint)


def _pvt_names(weights: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    weights = checkpoint_filter_fn(weights, encoder)
    return {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}


def _mscan_names(weights: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    weights = from_published_names(weights)
    first = "stages.0.embed.0.weight"
    if first in weights:
        channels = encoder.get_parameter(first).shape[1]
        weights[first] = adapt_input_conv(channels, weights[first])
    return weights


def _load_file(
    encoder: nn.Module, file: Path, convert: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]], hint: str
) -> str:
    """Load the weights in `file`, which `convert` gives the names of the encoder's parameters."""
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    if not file.is_file():
        raise ValueError(f"encoder weights {file}: the file does not exist; {hint}")
    try:
        weights = convert(timm.models.load_state_dict(str(file), weights_only=True), encoder)
        actual = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    except Exception as error:  # the file may hold anything
        raise ValueError(f"encoder weights {file} cannot be read ({type(error).__name__}); {hint}") from error
    if actual != expected:
        wrong = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
        raise ValueError(
            f"encoder weights {file} do not fit: {len(wrong)} of {len(expected)} tensors are missing, unknown or of "
            f"another shape, the first is '{wrong[0]}'; {hint}"
        )
    encoder.load_state_dict(weights)
    return str(file)
