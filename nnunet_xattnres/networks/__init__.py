"""Networks with cross-stage attention residuals."""

from .planned_unet import XAttnResResidualEncoderUNet, XAttnResUNet
from .plans import build_from_plans

__all__ = ["XAttnResResidualEncoderUNet", "XAttnResUNet", "build_from_plans"]
