"""Networks with cross-stage attention residuals."""

from .plans import build_from_plans
from .unet import XAttnResResidualEncoderUNet, XAttnResUNet

__all__ = ["XAttnResResidualEncoderUNet", "XAttnResUNet", "build_from_plans"]
