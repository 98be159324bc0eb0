"""Checkpoints of nnU-Net, and files that are none."""

import pytest
import torch

from nnunet_xattnres.utils.checkpoints import read_checkpoint
from nnunet_xattnres.utils.errors import UserError


def test_a_checkpoint(tmp_path):
    content = {"network_weights": {"w": torch.ones(2)}, "init_args": {"configuration": "2d"}, "trainer_name": "T"}
    torch.save(content, tmp_path / "checkpoint.pth")
    read = read_checkpoint(tmp_path / "checkpoint.pth")
    assert torch.equal(read.pop("network_weights")["w"], content.pop("network_weights")["w"]) and read == content


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for name in ("text.pth", "other.pth", "list.pth", "missing.pth"):
        with pytest.raises(UserError, match=name):
            read_checkpoint(tmp_path / name)
