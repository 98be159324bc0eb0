"""The place of a dataset; what happens there under kills is in test_kill.py."""

import pytest

from nnunet_xattnres.convert.destination import find_target
from nnunet_xattnres.utils.errors import UserError


def test_target(tmp_path):
    environment = {"nnUNet_raw": str(tmp_path)}
    assert find_target(4, "Name", environment).folder == tmp_path / "Dataset004_Name"
    (tmp_path / "Dataset004_Other").mkdir()
    for number, name, message in ((4, "Name", "number 4 already"), (0, "A", "1 to 999"), (1000, "A", "1 to 999"),
                                  (5, "a b", "letters"), (5, "../a", "letters"), (5, "", "letters")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            find_target(number, name, environment)
    with pytest.raises(UserError, match="it is not set"):
        find_target(5, "A", {})
