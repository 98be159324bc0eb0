"""Every Triton kernel compiles for a GPU, without one: the interpreter accepts more than the compiler."""

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
from nnunet_xattnres.ops import triton_kernels, triton_pooling, triton_projection

feature, capability = sys.argv[1], int(sys.argv[2])
half = feature != "fp32"
features = "rounded values full first second out grad_out d_full d_first d_second d_values".split()
features += "feature pooled grad d_feature".split()
scalars = "query maps attention products rstd d_alpha partial sums d_maps d_query before after".split()
scalars += "d_products d_squared_norms grad_attention gate d_gate".split()
tables = "columns features feature_of_cell readers full_index shapes blocks is_interpolated".split()
types = {"eps": "fp32", "addresses": "*i64", **dict.fromkeys(scalars, "*fp32")}
types |= dict.fromkeys(features, "*" + feature)
types |= dict.fromkeys(tables, "*i32")
constants = dict(
    TILE_X=16, VALUES=16, BLOCK=64, COLUMNS=32 if half else 16, OPERAND=getattr(tl, f"{feature[0]}loat{feature[-2:]}")
    if feature[0] == "f" else tl.bfloat16, PICK=tl.float16 if half else tl.float32,
    SPREAD=True, PRECISION="tf32" if half else "tf32x3", CELLS=32, FEW_CELLS=2, ITEMS=16, PIXELS=128, BACKWARD=True,
    GRAD_ATTENTION=True, GATED=True, WINDOWS=1024, CHANNELS=128,
    AXIS=2, OUTPUTS=64, WINDOW=8, DTYPE=tl.float16, WEIGHT=tl.float32, ALIGNED=True, DEPTH=32, ROWS=16, PARTS=8,
    SIZE=2048,
)
constants["DTYPE"] = constants["OPERAND"]
for word in sys.argv[3:]:
    name, dim, *changes = word.split(":")
    kernel = next(getattr(m, name) for m in (triton_kernels, triton_projection, triton_pooling) if hasattr(m, name))
    given = {**constants, "DIM": int(dim), "TILE_Y": 8 if half else 4}
    given |= {n: int(v) for n, v in (change.split("=") for change in changes)}
    # two numbers in half precision are one, where they are exact
    types["weights"] = "*i32" if half and "weights_in_float32" not in given else "*fp32"
    # tables in some kernels, scores and sums in the others
    types["products"] = "*i32" if name == "weight_gradient_kernel" else "*fp32"
    types["sums"] = "*i32" if name == "sum_parts_kernel" else "*fp32"
    signature = {n: "constexpr" if n in given else types.get(n, "i32") for n in kernel.arg_names}
    positions = {n: (i,) for i, n in enumerate(kernel.arg_names)}
    values = {positions[n]: v for n, v in given.items() if n in positions}
    divisible = [n for n in positions if n in types and n != "eps" or n in ("channels", "width", "full_x")]
    source = ASTSource(kernel, signature, values, {positions[n]: [["tt.divisibility", 16]] for n in divisible})
    options = {"num_warps": given.get("num_warps", 4), "num_stages": 3 if half else 1}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(name, len(compiled.asm["cubin"]), compiled.metadata.shared)
"""
KERNELS = [
    "maps_kernel", "full_scores_kernel", "attention_kernel", "weighted_sum_kernel",
    "sum_backward_kernel", "scores_backward_kernel", "full_backward_kernel", "transpose_maps_kernel",
    "sum_columns_kernel", "values_backward_kernel", "round_weights_kernel", "project_kernel", "source_gradient_kernel",
    "weight_gradient_kernel", "sum_parts_kernel", "max_pool_kernel", "max_pool_backward_kernel",
]  # fmt: skip
# the same kernels with other constants, which take other branches
VARIANTS = {
    "full_scores_kernel": ["BACKWARD=0", "SPREAD=0:BLOCK=4"],
    "attention_kernel": ["BACKWARD=0"],
    "transpose_maps_kernel": ["AXIS=1"],
    "weighted_sum_kernel": ["COLUMNS=64", "weights_in_float32=1"],
    "sum_backward_kernel": ["weights_in_float32=1"],
    "sum_parts_kernel": ["BLOCK=128:ROWS=8"],
    "project_kernel": ["BLOCK=128:num_warps=8"],
    "source_gradient_kernel": ["BLOCK=128:num_warps=8"],
    "weight_gradient_kernel": ["BLOCK=128:num_warps=8"],
}
# of a block, with the least compute capability that has it
SHARED_MEMORY = {75: 64 * 1024, 80: 99 * 1024, 90: 99 * 1024}


@pytest.mark.parametrize(
    ("feature", "capability", "dim"),
    [
        ("fp16", 80, 2),
        ("fp16", 90, 3),
        pytest.param("bf16", 90, 2, marks=pytest.mark.slow),
        pytest.param("fp32", 80, 2, marks=pytest.mark.slow),
        pytest.param("fp16", 75, 2, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_and_fit_into_shared_memory(feature, capability, dim, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    words = [f"{name}:{dim}" for name in KERNELS]
    words += [f"{name}:{dim}:{constants}" for name, variants in VARIANTS.items() for constants in variants]
    command = [sys.executable, "-c", SCRIPT, feature, str(capability), *words]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == [word.split(":")[0] for word in words]
    assert all(int(size) > 1000 for _, size, _ in lines)
    assert all(int(shared) <= SHARED_MEMORY[capability] for _, _, shared in lines)
