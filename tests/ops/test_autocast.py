"""Inside autocast, products are computed in the precision of their inputs."""

import torch

from nnunet_xattnres.ops.autocast import without_autocast


def test_products_keep_their_precision():
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast("cpu"):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_a_device_without_autocast():
    with without_autocast("meta"):
        assert torch.zeros(2, 2, device="meta").mm(torch.zeros(2, 2, device="meta")).device.type == "meta"
