"""A part of a program that is refused when it is lowered, which is when its platform is known."""

from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from mmsb_jax._base.errors import KernelUnavailableError


def refused(name: str, results: Any) -> Any:
    """``results`` (abstract) of the kernel ``name``, in a program for what it does not run on."""
    flat, treedef = jax.tree_util.tree_flatten(results)
    avals = tuple((result.shape, result.dtype) for result in flat)
    return treedef.unflatten(_no_kernel.bind(name=name, avals=avals))


_no_kernel = Primitive("mmsb_no_kernel")
_no_kernel.multiple_results = True


@_no_kernel.def_abstract_eval
def _abstract(*, name: str, avals: tuple[Any, ...]) -> list[Any]:
    del name
    return [ShapedArray(shape, dtype) for shape, dtype in avals]


def _refuse(context: Any, *, name: str, avals: Any) -> Any:
    del avals
    raise KernelUnavailableError(
        f"the kernel {name!r} was asked for by name, and the program is for "
        f"{', '.join(context.module_context.platforms)}: it runs on CUDA alone. Use "
        f"implementation='xla', or None for the best that each platform has."
    )


mlir.register_lowering(_no_kernel, _refuse)
