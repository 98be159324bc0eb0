"""What the XAttnRes paper (arXiv 2604.03297) prints: accuracies as data, and sizes beside those of this code."""

from .accuracy import Published, published

__all__ = ["Published", "published"]
