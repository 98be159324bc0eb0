"""Launch Triton kernels with little work for the CPU, and compile those of a layer side by side.

To find the compiled kernel of a launch, Triton looks at all arguments, and asks CUDA about the address of every tensor.
That takes longer than many kernels of deep stages compute. A `Launch` knows its grid, its numbers and the dtypes of its
tensors, so that its kernel is found once, and called with addresses.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeAlias

import torch
import triton
from torch import Tensor

Memory: TypeAlias = Any
"""A tensor as a launch takes it: its address, or in Triton's interpreter the tensor itself."""

ALIGNMENT = 16
"""The kernels are compiled for tensors whose addresses are multiples of this number of bytes."""

_THREADS = 8

# Triton decides when the kernels are defined
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return _IS_INTERPRETED


def as_operand(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor, or a copy, with contiguous and aligned memory, and in a dtype, if one is given.

    Copies because of the alignment are rare: samples of odd sizes in groups of samples, and parts of other tensors.
    """
    # nearly every tensor is already, and to ask takes the CPU less time than to convert
    if dtype is not None and tensor.dtype != dtype:
        tensor = tensor.to(dtype)
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    return tensor if is_aligned(tensor) else tensor.clone()


def is_aligned(tensor: Tensor) -> bool:
    """Whether the memory of a tensor begins at a multiple of ALIGNMENT; that of a part of another tensor may not."""
    return tensor.data_ptr() % ALIGNMENT == 0


def as_result(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor for results, or where kernels cannot write to it, a new one to be copied from.

    They write aligned memory, and in a dtype, if one is given.
    """
    dtype = dtype or tensor.dtype
    return tensor if tensor.dtype == dtype and is_aligned(tensor) else torch.empty_like(tensor, dtype=dtype)


def copy_results(written: Iterable[Tensor | None], tensors: Iterable[Tensor | None]) -> None:
    """Copy what was written to others than the tensors themselves; both may be None."""
    for source, target in zip(written, tensors, strict=True):
        if source is not None and target is not None and source is not target:
            target.copy_(source)


def memory_of(tensor: Tensor) -> Memory:
    """What a launch takes for a tensor, which must live until the last launch that takes it."""
    return tensor if _IS_INTERPRETED else tensor.data_ptr()


class _Pointer:
    """What a kernel is compiled for instead of a tensor: any aligned memory of a dtype.

    Triton takes a dtype for a tensor, too, but of less than 2 GiB, so that it computes with 32 bits on AMD's GPUs.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    @staticmethod
    def data_ptr() -> int:
        return 0

    @staticmethod
    def ptr_range() -> int:
        """The size of the memory in bytes."""
        return 2**62


class Launch:
    """A kernel with its grid, the dtypes of its tensors, which are its first arguments, and all other arguments.

    It is called with the memory of the tensors, as `memory_of` returns it. They must be contiguous, and begin at
    multiples of ALIGNMENT. The kernel is compiled and loaded for the current device, in `compile_launches` or in the
    first call.

    Args:
        kernel: the Triton kernel.
        grid: the number of programs along up to three axes.
        dtypes: the dtypes of the tensors.
        scalars: the numbers that follow the tensors in the arguments of the kernel.
        options: the compile-time arguments of the kernel, and those of the compiler, such as `num_warps`.
    """

    def __init__(
        self, kernel: Any, grid: tuple[int, ...], dtypes: Sequence[torch.dtype], *scalars: float, **options: Any
    ):
        self.kernel = kernel
        self.grid = (*grid, 1, 1)[:3]
        self.dtypes = tuple(dtypes)
        self.scalars = scalars
        self.options = options
        # what follows the tensors: Triton passes the values of the compile-time arguments to the compiled kernel, too
        self._rest = (*scalars, *(options[name] for name in kernel.arg_names if name in options))
        self._is_interpreted = is_interpreted()
        self._run: Any = None

    @property
    def is_ready(self) -> bool:
        """Whether nothing remains to be compiled or loaded."""
        return self._is_interpreted or self._run is not None

    def compile(self) -> Any:
        """Compile the kernel, or begin to in another thread; returns it, or what stands for it until then."""
        pointers = [_Pointer(dtype) for dtype in self.dtypes]
        return self.kernel.warmup(*pointers, *self.scalars, grid=self.grid, **self.options)

    def __call__(self, *memory: Memory) -> None:
        """Launch the kernel on the current stream, without Triton's hooks for its own profiler."""
        if self._is_interpreted:
            self._check(memory)
            self.kernel[self.grid](*memory, *self.scalars, **self.options)
            return
        if self._run is None:
            self.load()
        stream = self._get_stream(self._device)
        self._run(*self.grid, stream, self._function, self._metadata, None, None, None, *memory, *self._rest)

    def _check(self, tensors: Sequence[Tensor]) -> None:
        """What would not be seen with addresses."""
        for tensor, dtype in zip(tensors, self.dtypes, strict=True):
            if tensor.dtype != dtype or not tensor.is_contiguous() or not is_aligned(tensor):
                raise ValueError(
                    f"{self.kernel.__name__}: expected an aligned contiguous tensor in {dtype}, got {tensor.dtype} at "
                    f"{tensor.data_ptr()} with strides {tensor.stride()}"
                )

    def load(self) -> None:
        """Load the kernel onto the current device; an error says that it needs more than the device has."""
        compiled = self.compile()
        self._get_stream = triton.runtime.driver.active.get_current_stream
        self._device = triton.runtime.driver.active.get_current_device()
        # to look at `run` is what loads it
        run, self._function, self._metadata = compiled.run, compiled.function, compiled.packed_metadata
        self._run = run


def compile_launches(launches: Sequence[Launch]) -> None:
    """Compile the kernels that are not ready, side by side: most of the compiler's work is outside of Python.

    They are loaded, too. So if one of them cannot be, nothing has been launched, and no tensor changed in place.
    """
    waiting = [launch for launch in launches if not launch.is_ready]
    if not waiting:
        return
    with ExitStack() as stack:
        # older versions of Triton compile one kernel after the other
        if hasattr(triton, "AsyncCompileMode"):
            executor = stack.enter_context(ThreadPoolExecutor(_THREADS))
            stack.enter_context(triton.AsyncCompileMode(executor))
        for launch in waiting:
            launch.compile()
    for launch in waiting:
        launch.load()
