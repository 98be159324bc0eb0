"""nnU-Net v2 with cross-stage attention residuals (XAttnRes, arXiv 2604.03297)."""

from importlib import import_module

__version__ = "0.1.0"

# resolved on first use, so that the command line starts without torch
_PUBLIC = {
    "History": ".history",
    "SEMA": ".attention",
    "XAttnRes": ".layer",
    "XAttnResStages": ".stages",
    "XAttnResUNet": ".networks",
    "XAttnResResidualEncoderUNet": ".networks",
    "PaperUNet": ".networks.paper_unet",
    "EMCAD": ".networks.emcad",
    "CSAP": ".networks.csap",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__():
    return sorted(__all__)
