"""Programs: compiled functions that run at once, whatever the user's settings of JAX.

On a CPU, JAX hands what it runs to another thread, and to wake that one takes longer than most
derived arrays do. A program that holds a callback into Python it runs in the thread that calls it,
since the callback might wait for that thread. So our programs hold one, which is never called.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from mmsb_jax._compile.body import Body
from mmsb_jax._compile.made import CompileTime
from mmsb_jax._compile.monitor import heard, listen
from mmsb_jax._core.settings import any_settings, is_traced


class SharedProgram:
    """A function of arrays, compiled when it is first called for their shapes.

    Cost: 10 µs a call on a CPU and what is computed, if the function uses `run_here`.

    Args:
        function: pure; takes and returns pytrees of arrays.
        is_wide: whether it is to be called with JAX's 64-bit types. One that takes words alone need
            not be: it can switch them on itself while it is traced, and `words` calls it.

    Attributes:
        compile_time: what compiling it has taken.
    """

    def __init__(self, function: Callable[..., Any], is_wide: bool = False) -> None:
        self._call = jax.jit(function)
        self._is_wide = is_wide
        self.compile_time = CompileTime()
        listen()

    def __call__(self, *arrays: Any) -> Any:
        """What the function returns."""
        with undisturbed(), jax.enable_x64(self._is_wide):
            return self._run(arrays)

    def on_host(self, *arrays: Any) -> Any:
        """What the function returns, as NumPy arrays: transfers, where it runs on a GPU."""
        with undisturbed(), jax.enable_x64(self._is_wide):
            return jax.tree_util.tree_map(np.asarray, self._run(arrays))

    def words(self, *arrays: Any) -> np.ndarray:
        """What the function returns, which takes and returns words, as one NumPy array."""
        with undisturbed():
            before = heard.count
            out = self._call(*arrays)
            if heard.count != before:
                self.compile_time.ms += heard.ms_since(before)
            return np.asarray(self._run(arrays) if isinstance(out, Tracer) else out)

    def _run(self, arrays: Sequence[Any]) -> Any:
        before = heard.count
        out = self._call(*arrays)
        if is_traced(out):  # whoever calls is being traced, and this became a part of it
            with jax.ensure_compile_time_eval():
                out = self._call(*arrays)
        if heard.count != before:
            self.compile_time.ms += heard.ms_since(before)
        return out

    def text(self, *arrays: Any) -> str:
        """What it is compiled to, for arrays of these shapes."""
        with undisturbed(), jax.enable_x64(self._is_wide):
            return self._call.lower(*arrays).compile().as_text() or ""


def program_of(
    function: Callable[..., Any], what: Hashable, bodies: Iterable[Body], is_wide: bool = False
) -> SharedProgram:
    """The program of ``function(what, *arrays)``: one for all buses that ask for an equal one.

    The newest 16 outlive the buses that asked for them, so that a log that is opened again compiles
    nothing. One of ``bodies`` that hold data, or may fail, which holds callbacks, is not shared.
    """
    if all(body.is_light and not body.can_fail for body in bodies):
        return _shared(function, what, is_wide)
    return SharedProgram(functools.partial(function, what), is_wide)


@functools.lru_cache(maxsize=16)
def _shared(function: Callable[..., Any], what: Hashable, is_wide: bool) -> SharedProgram:
    return SharedProgram(functools.partial(function, what), is_wide)


def run_here(value: Any, never: Any) -> Any:
    """``value``; a program that uses it runs in the thread that calls it.

    Args:
        value: a number of the program.
        never: a bool of the program that is always False, which XLA does not know.
    """
    if jax.default_backend() != "cpu":
        return value
    result = jax.ShapeDtypeStruct(value.shape, value.dtype)
    return lax.cond(never, lambda: jax.pure_callback(np.asarray, result, value), lambda: value)


def on_device(array: np.ndarray) -> jax.Array:
    """A copy of ``array`` where programs run."""
    with undisturbed(), jax.ensure_compile_time_eval():
        return jnp.asarray(array)


_SETTINGS = attrgetter(
    "jax_transfer_guard_host_to_device",
    "jax_transfer_guard_device_to_host",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_disable_jit",
    "jax_numpy_rank_promotion",
    "jax_numpy_dtype_promotion",
)
_UNDISTURBED = (None, None, False, False, False, "allow", "standard")


def undisturbed() -> AbstractContextManager[Any]:
    """Inside, the user's settings of JAX neither stop nor change a program.

    Cost: 2 µs where there are none, since entering `any_settings` takes many more.
    """
    if _SETTINGS(jax.config) == _UNDISTURBED and jax.sharding.get_abstract_mesh().empty:
        return nullcontext()
    settings = ExitStack()
    settings.enter_context(any_settings())
    settings.enter_context(jax.disable_jit(False))
    return settings
