"""The backends, as fixtures of the tests of the operator."""

from functools import partial
from unittest.mock import Mock

import pytest
from support.operator import BACKENDS, DEVICE, triton_in_float32

from nnunet_xattnres.ops import custom_op, triton_backend, xattnres


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """The name of a backend; at the end of the test it is asserted that this backend has computed everything."""
    name = request.param
    compute = Mock(wraps=custom_op._compute)
    monkeypatch.setattr(custom_op, "_compute", compute)
    if name == "triton" and DEVICE == "cpu":
        # the time of the interpreter grows with the number of programs, not with their size
        sizes = triton_backend.BLOCK_SIZES._replace(few_pixels=256, score_pixels=256)
        monkeypatch.setattr(triton_backend, "BLOCK_SIZES", sizes)
    monkeypatch.setattr(custom_op, "triton_refusals", set())
    yield name
    assert {call.args[1] for call in compute.call_args_list} == {name}
    assert not custom_op.triton_refusals, "PyTorch computed instead of Triton"


@pytest.fixture
def operator(backend):
    return partial(xattnres, backend=backend) if backend != "triton" else triton_in_float32
