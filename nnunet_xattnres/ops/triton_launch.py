"""Launch Triton kernels with little work for the CPU; those of a function are compiled side by side before.

Triton compiles a kernel in the launch that needs it first, so the kernels of a layer would be compiled one after the
other. `CompileFirst` therefore calls a function once without launching anything. In this call Triton only learns which
kernels it needs and compiles them in threads, most of whose work is done outside of Python.

To find the compiled kernel of a launch, Triton looks at all arguments, and asks CUDA about the address of every tensor.
That takes longer than many kernels of deep stages compute. A `Launch` finds the kernel once, and then passes addresses.
"""

import operator
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import reduce
from typing import Any, Generic, TypeVar

import torch
import triton
from torch import Tensor

T = TypeVar("T")

ALIGNMENT = 16
"""Triton loads several elements as one where addresses are known to be multiples of this number of bytes."""

_THREADS = 8

_only_compile: ContextVar[bool] = ContextVar("only_compile", default=False)


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def as_contiguous(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor with contiguous memory, and in a dtype, if one is given."""
    # nearly every tensor is already, and to ask takes the CPU less time than to convert
    if dtype is not None and tensor.dtype != dtype:
        tensor = tensor.to(dtype)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def are_aligned(addresses: Iterable[int]) -> bool:
    """Whether all addresses are multiples of ALIGNMENT."""
    return reduce(operator.or_, addresses) % ALIGNMENT == 0


class Launch:
    """A kernel with its grid and with all arguments but the tensors, which come first.

    The tensors of all calls must have the same dtypes and be on the same device. A kernel of its own is compiled for
    every combination of tensors whose memory begins at a multiple of 16 bytes, as in Triton itself.

    Args:
        kernel: the Triton kernel.
        grid: the number of programs along up to three axes.
        scalars: the numbers that follow the tensors in the arguments of the kernel.
        options: the compile-time arguments of the kernel, and those of the compiler, such as `num_warps`.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], *scalars: float, **options: Any):
        self.kernel = kernel
        self.grid = (*grid, 1, 1)[:3]
        self.scalars = scalars
        self.options = options
        # what follows the tensors: Triton passes the values of the compile-time arguments to the compiled kernel, too
        self._rest = (*scalars, *(options[name] for name in kernel.arg_names if name in options))
        self._launches: dict[tuple[int, ...] | None, _CompiledKernel] = {}
        self._is_interpreted = is_interpreted()

    def __call__(self, *tensors: Tensor) -> None:
        """Launch the kernel, or only compile it before the first call of a `CompileFirst`."""
        if self._is_interpreted:
            if not _only_compile.get():
                self.kernel[self.grid](*tensors, *self.scalars, **self.options)
            return
        if _only_compile.get():
            self._compile(tensors)
            return
        addresses = [tensor.data_ptr() for tensor in tensors]
        # in nearly every call, all tensors are aligned
        alignment = None if are_aligned(addresses) else tuple([a % ALIGNMENT for a in addresses])
        compiled = self._launches.get(alignment)
        if compiled is None:
            compiled = self._launches[alignment] = _CompiledKernel(self._compile(tensors))
        compiled.launch(self.grid, addresses, self._rest)

    def _compile(self, tensors: tuple[Tensor, ...]) -> Any:
        return self.kernel.warmup(*tensors, *self.scalars, grid=self.grid, **self.options)


class _CompiledKernel:
    """What Triton needs for a launch of a compiled kernel, on the device that was the current one when it was made."""

    def __init__(self, compiled: Any):
        # the first loads the kernel onto the device
        self._run, self._function, self._metadata = compiled.run, compiled.function, compiled.packed_metadata
        self._get_stream = triton.runtime.driver.active.get_current_stream
        self._device = triton.runtime.driver.active.get_current_device()

    def launch(self, grid: tuple[int, ...], addresses: list[int], rest: tuple[Any, ...]) -> None:
        """Launch the kernel on the current stream, without Triton's hooks for its own profiler."""
        stream = self._get_stream(self._device)
        self._run(*grid, stream, self._function, self._metadata, None, None, None, *addresses, *rest)


class CompileFirst(Generic[T]):
    """A function that calls `Launch`es, whose kernels are compiled side by side before the first call.

    Before that call, the function is called without launching kernels. So its results must not depend on what the
    tensors contain, and it must not change its arguments but by kernels.

    Args:
        function: a function that needs the same kernels in every call in which the same arguments are None.
    """

    def __init__(self, function: Callable[..., T]):
        self._function = function
        self._is_interpreted = is_interpreted()
        # for every call whose kernels have been compiled, which arguments were None
        self._compiled: set[tuple[bool, ...]] = set()

    def __call__(self, *arguments: Any) -> T:
        """Call the function."""
        # older versions of Triton have no such mode
        if hasattr(triton, "AsyncCompileMode") and not self._is_interpreted:
            key = tuple([argument is None for argument in arguments])
            if key not in self._compiled:
                with ThreadPoolExecutor(_THREADS) as executor, triton.AsyncCompileMode(executor):
                    token = _only_compile.set(True)
                    try:
                        self._function(*arguments)
                    finally:
                        _only_compile.reset(token)
                self._compiled.add(key)
        return self._function(*arguments)
