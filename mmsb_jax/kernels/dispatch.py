"""Which form of an operation a program gets: that of XLA, or the kernel for the GPU.

Never the other one in silence: what was asked for by name is had, or refused.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax import lax

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import KernelUnavailableError

Implementation = Literal["xla", "mosaic"] | Sequence[Literal["xla", "mosaic"]] | None
"""Which form; a sequence is tried in order, and None is the best that each platform has."""

_LEAST_JAX = 0, 11
_LEAST_CAPABILITY = 8.0
"""Ampere."""


@dataclass(frozen=True)
class Kernel:
    """An operation on arrays, in the forms that it has.

    Attributes:
        name: that of the function in `mosaic`.
        xla: the form for XLA.
        misfit: why the kernel does not take operands of these shapes; empty where it does.
    """

    name: str
    xla: Callable[..., Any]
    misfit: Callable[..., str]

    def __call__(self, implementation: Implementation, *operands: Any) -> Any:
        """What the operation makes of ``operands``: a program, or a part of the caller's."""
        return _run(self, self._choose(implementation, operands), *operands)

    def trace(self, form: "_Form", operands: Sequence[Any]) -> Any:
        """The operation in a program that is being traced."""
        if form == "xla":
            return self.xla(*operands)
        kernel = getattr(importlib.import_module("mmsb_jax.kernels.mosaic"), self.name)
        otherwise = self.xla if form == "by platform" else self._refused
        return lax.platform_dependent(*operands, cuda=kernel, default=otherwise)

    def _choose(self, implementation: Any, operands: Sequence[Any]) -> "_Form":
        if implementation is None:
            is_here = not (self.misfit(*operands) or _missing(needs_gpu=True))
            return "by platform" if is_here else "xla"
        if isinstance(implementation, str):
            wanted, needs_gpu = [implementation], False
        elif isinstance(implementation, Sequence):
            wanted, needs_gpu = list(implementation), True
        else:
            wanted, needs_gpu = [], False
        if not wanted or not {"xla", "mosaic"}.issuperset(wanted):
            raise ValueError(
                f"implementation={show(implementation)}: expected None, 'xla', 'mosaic', or a "
                f"sequence of these names"
            )
        reason = ""
        for name in wanted:
            if name == "xla":
                return "xla"
            reason = self.misfit(*operands) or _missing(needs_gpu)
            if not reason:
                return "mosaic"
        raise KernelUnavailableError(
            f"the kernel {self.name!r} cannot be had: {reason}. Use implementation='xla', or None "
            f"for the best that each platform has."
        )

    def _refused(self, *operands: Any) -> Any:
        from mmsb_jax.kernels.refusal import refused  # what it imports takes half a second

        return refused(self.name, jax.eval_shape(self.xla, *operands))


_Form = Literal["xla", "mosaic", "by platform"]


# A program of its own inside of the caller's: many calls of one shape are traced and lowered once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(kernel: Kernel, form: _Form, *operands: Any) -> Any:
    return kernel.trace(form, operands)


def _missing(needs_gpu: bool) -> str:
    """What this process lacks for kernels; empty for nothing.

    Args:
        needs_gpu: whether it must have a GPU; else it may lower for that of another.
    """
    if jax.__version_info__ < _LEAST_JAX:
        least = ".".join(map(str, _LEAST_JAX))
        return f"it needs JAX {least} or newer, and this is {jax.__version__}"
    capabilities = [
        float(capability)
        for device in jax.devices()
        if (capability := getattr(device, "compute_capability", None)) is not None
        and device.platform == "gpu"
    ]
    if needs_gpu and not capabilities:
        return "this process has no CUDA GPU"
    if any(capability < _LEAST_CAPABILITY for capability in capabilities):
        return f"it needs a GPU of compute capability {_LEAST_CAPABILITY} (Ampere) or newer"
    return ""
