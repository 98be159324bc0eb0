"""Types of command line arguments."""

import argparse
import re

import pytest

from nnunet_xattnres.cli.arguments import positive_int


def test_a_positive_number():
    assert positive_int("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "²", "٣"])
def test_texts_that_are_no_positive_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
        positive_int(text)
