"""Numbers on the command line."""

import argparse

import pytest

from nnunet_xattnres.cli.arguments import positive_int


def test_positive():
    assert positive_int("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "²", "٣"])
def test_not_positive(text):
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
        positive_int(text)
