"""Every Triton kernel compiles for sm_80 without a GPU, because the interpreter accepts more than the compiler."""

import os
import subprocess
import sys

import pytest

# in a new process, because this one imports the kernels for the interpreter
SCRIPT = """
import sys, warnings
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
warnings.simplefilter("ignore")
from nnunet_xattnres.ops import triton_kernels as kernels

kernel, feature, axes = getattr(kernels, sys.argv[1]), sys.argv[2], int(sys.argv[3])
constants = dict(
    CHANNELS=24, WIDTH=16, AXES=axes, ENTRIES=8, PIXELS=64, BLOCK=16, CELLS=16, STEP=64, GRAD_OUT=True,
    GRAD_ATTENTION=True, ACC=tl.float64 if feature == "fp64" else tl.float32,
    PRECISION="tf32x3" if feature == "fp16" else "ieee",
)
accumulated = "maps query attention alphas d_products d_squared_norms d_query grad_attention"
accumulated += " row_gradients d_product d_pairs"
features = "values value first second out grad_out d_values d_value d_first d_second"
types = {"table": "*i64", "eps": "fp32"}
types |= dict.fromkeys(accumulated.split(), "*fp64" if feature == "fp64" else "*fp32")
types |= dict.fromkeys(features.split(), "*" + feature)
types |= dict.fromkeys(constants, "constexpr")
signature = {name: types.get(name, "i32") for name in kernel.arg_names}
values = {(kernel.arg_names.index(n),): v for n, v in constants.items() if n in kernel.arg_names}
compiled = triton.compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 80, 32))
print(len(compiled.asm["cubin"]))
"""


@pytest.mark.parametrize(
    ("kernel", "feature", "axes"),
    [
        ("maps_kernel", "fp16", 3),
        ("forward_kernel", "fp16", 3),
        ("backward_kernel", "fp16", 3),
        ("rows_kernel", "fp16", 3),
        ("finish_kernel", "fp16", 3),
        pytest.param("forward_kernel", "bf16", 7, marks=pytest.mark.slow),
        pytest.param("backward_kernel", "fp32", 7, marks=pytest.mark.slow),
        pytest.param("rows_kernel", "fp32", 7, marks=pytest.mark.slow),
        pytest.param("rows_kernel", "fp64", 3, marks=pytest.mark.slow),
    ],
)
def test_compiles_for_a_gpu(kernel, feature, axes, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, kernel, feature, str(axes)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 1000
