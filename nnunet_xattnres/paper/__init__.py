"""Figures of the XAttnRes paper (arXiv 2604.03297): its accuracy tables as data, and network sizes for comparison."""

from .accuracy import PublishedFigure, published

__all__ = ["PublishedFigure", "published"]
