"""The XAttnRes operator, Eqs. 4-8 of arXiv 2604.03297, and its backends.

`reference.py` is the specification. `torch_backend.py`, `cpp_backend.py` (CPU) and `triton_backend.py` (CUDA) compute
the same function with less memory and time, behind one PyTorch operator (`custom_op.py`); files whose names begin with
`cpp_` and `triton_` belong to these backends. `export_backend.py` takes their place in graphs that are traced or
exported. `dispatch.py` has the public function, `xattnres`, and selects the backend.
"""

from .dispatch import BACKENDS, xattnres

__all__ = ["BACKENDS", "xattnres"]
