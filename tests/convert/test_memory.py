"""Sizes that need too much memory are refused before any is allocated."""

import pytest
from PIL import Image

from nnunet_xattnres.convert import memory
from nnunet_xattnres.utils.errors import UserError


def test_sizes_that_pillow_refuses():
    side = int((2 * Image.MAX_IMAGE_PIXELS) ** 0.5) + 1
    with pytest.raises(UserError, match=str(side)):
        memory.check_size((side, side), 1)


def test_every_worker_needs_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000 * 1000 * 100)
    memory.check_size((1000, 1000), 4)
    with pytest.raises(UserError, match="--workers"):
        memory.check_size((1000, 1000), 6)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_size((1000, 1000), 6)


def test_available_memory():
    available = memory.available_memory()
    assert available is None or 2**20 < available < 2**50
