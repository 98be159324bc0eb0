"""Checkpoints of nnU-Net, and files that are none."""

import os
from pathlib import Path

import pytest
import torch

from nnunet_xattnres.utils.checkpoints import read_checkpoint
from nnunet_xattnres.utils.errors import UserError


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as PyTorch before 1.6"])
@pytest.mark.parametrize("weights_on_disk", [False, True])
def test_a_checkpoint(tmp_path, weights_on_disk, zipped):
    content = {"network_weights": {"w": torch.ones(2)}, "init_args": {"configuration": "2d"}, "trainer_name": "T"}
    torch.save(content, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "checkpoint.pth", weights_on_disk)
    assert torch.equal(read.pop("network_weights")["w"], content.pop("network_weights")["w"]) and read == content


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_weights_on_the_disk_take_no_memory(tmp_path):
    content = {"network_weights": {"w": torch.ones(2**24)}, "init_args": {}, "trainer_name": "T"}
    torch.save(content, tmp_path / "checkpoint.pth")

    def resident_bytes(weights_on_disk):
        before = memory_in_pages()
        checkpoint = read_checkpoint(tmp_path / "checkpoint.pth", weights_on_disk)
        used = (memory_in_pages() - before) * os.sysconf("SC_PAGE_SIZE")
        assert checkpoint["network_weights"]["w"][-1] == 1
        return used

    def memory_in_pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    assert resident_bytes(True) < 2**24 < resident_bytes(False)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    torch.save([1], tmp_path / "list.pth")
    for name in ("text.pth", "other.pth", "list.pth", "missing.pth"):
        with pytest.raises(UserError, match=name):
            read_checkpoint(tmp_path / name)
