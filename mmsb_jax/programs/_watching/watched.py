"""A jitted function that says why it was compiled."""

import functools
import inspect
import threading
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, ParamSpec, TypeVar, overload

import equinox
import jax
from jax.core import Tracer

from mmsb_jax._base.arguments import check_flag, check_kind, is_integer, show
from mmsb_jax._base.errors import ClosedError, RecompilationError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._compile.monitor import StageTiming, heard, listen
from mmsb_jax.programs._captured.arrays import MOST_NAME_BYTES, check_name
from mmsb_jax.programs._watching.call_site import call_site
from mmsb_jax.programs._watching.causes import Cause, explain_call, first_call
from mmsb_jax.programs._watching.compilation import Compilation, Explanation, What
from mmsb_jax.programs._watching.record import record, warn_of_fault
from mmsb_jax.programs._watching.signature import Signature, argument_names, signature_of
from mmsb_jax.programs._watching.statics import static_arguments

P = ParamSpec("P")
R = TypeVar("R")

_MOST_KEPT = 128
"""Signatures, and compilations, that are kept of one function."""

_MOST_CODES = 256
_MOST_NAME = 80

_FILTER_JIT: type = type(equinox.filter_jit(lambda: None))


class Watched(Generic[P, R]):
    """A jitted function that says why it was compiled; `watch` makes it.

    Calls go to the function, under `jax.vmap`, `jax.grad` and `jax.jit` too, and so do its other
    attributes: ``lower``, ``trace``, ``eval_shape``, ``clear_cache``. As an attribute of a class it
    is a method. Inside another function that is being traced it becomes a part of that one, which
    is what JAX compiles then.

    Any thread may call it; what it compiled is that of all threads together.

    Cost: 1 µs a call that compiles nothing; one that compiles, a look at every array of its
    arguments. It holds the shapes, dtypes and places of the newest 128 calls that compiled, the
    structure of their arguments, and no array.

    >>> import jax, jax.numpy as jnp
    >>> from mmsb_jax import programs
    >>> double = programs.watch(jax.jit(lambda x: 2 * x), name="double")
    >>> _ = double(jnp.ones(3)), double(jnp.ones(4))
    >>> print(double.compilations[-1].why)
    argument x: shape (3,) -> (4,)
    """

    def __init__(
        self,
        function: Callable[P, R],
        bus: Bus | None,
        max_compiles: int | None,
        name: str,
        show_values: bool,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._bus, self._max_compiles = bus, max_compiles
        self._own_name, self._show_values = name, show_values
        self._jax_name = getattr(function, "__name__", None)
        self._argument_name = argument_names(function)
        self._lock = threading.RLock()
        self._count = 0
        self._compilations: deque[Compilation] = deque(maxlen=_MOST_KEPT)
        self._signatures: deque[Signature] = deque(maxlen=_MOST_KEPT)
        self._statics: dict[Any, frozenset[int | str] | None] = {}
        self._faults: set[str] = set()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns.

        Raises:
            RecompilationError: it has compiled more often than ``max_compiles``. The call was made,
                and its result is lost, with the arrays that were donated to it. A later call that
                compiles nothing returns; one that compiles raises again.
        """
        before = heard.count
        try:
            result = self._function(*args, **kwargs)
        except BaseException:
            if heard.count != before:
                self._note(before, args, kwargs)
            raise
        if heard.count != before and self._note(before, args, kwargs):
            self._check_count()
        return result

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        if name == "_function":  # of an object that is being made
            raise AttributeError(name)
        return getattr(self._function, name)

    def __copy__(self) -> "Watched[P, R]":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watched[P, R]":
        return self  # as a function is

    def __repr__(self) -> str:
        return f"<Watched {self._own_name}: compiled {self._count} times>"

    @property
    def compilations(self) -> tuple[Compilation, ...]:
        """The compilations, oldest first: the newest 128 of them."""
        return tuple(self._compilations)

    def explain(self) -> Explanation:
        """Why it was compiled, each time: a table, in a notebook too.

        >>> import jax, jax.numpy as jnp
        >>> from mmsb_jax import programs
        >>> double = programs.watch(jax.jit(lambda x: 2 * x), name="double")
        >>> print(double.explain())
        double: not compiled since it is watched
        """
        with self._lock:
            return Explanation(self._own_name, self._compilations, self._count)

    def _note(self, before: int, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Record what the call has compiled; whether that is anything. It never fails."""
        own = [timing for timing in heard.since(before) if self._is_own(timing)]
        if not any(timing.stage == "compiling" for timing in own):
            return False
        for timing in own:
            timing.is_taken = True
        with self._lock:
            self._count += 1
            compilation = self._compilation(own, self._causes(args, kwargs))
            self._compilations.append(compilation)
        if self._bus is not None:
            self._record(self._bus, compilation, args, kwargs)
        return True

    def _is_own(self, timing: StageTiming) -> bool:
        return not timing.is_taken and self._jax_name in (None, timing.function)

    def _causes(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Cause, ...]:
        """Why the call has compiled, as far as it can be told."""
        earlier = list(self._signatures)
        try:
            signature = self._signature(args, kwargs)
            if earlier:
                signature = signature.like(earlier[-1])
            causes = explain_call(signature, earlier) if earlier else first_call(_codes.add(self))
        except Exception as error:  # of the user's classes: of what compares them, for one
            self._warn_once(error)
            return (Cause("nothing seen", "", "", f"not explained: {type(error).__name__}"),)
        self._signatures.append(signature)
        return causes

    def _compilation(self, own: Sequence[StageTiming], causes: tuple[Cause, ...]) -> Compilation:
        hits = [timing.cache_hit for timing in own if timing.stage == "compiling"]
        return Compilation(
            number=self._count,
            function=self._own_name,
            what=_what(own, self._count == 1),
            causes=causes,
            tracing_ms=_ms(own, "tracing"),
            lowering_ms=_ms(own, "lowering"),
            compiling_ms=_ms(own, "compiling"),
            cache_hit=None if None in hits else all(hits),
            site=call_site(),
        )

    def _signature(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Signature:
        form = len(args), tuple(sorted(kwargs))
        if form not in self._statics:
            self._statics[form] = static_arguments(self._function, *form)
        statics = self._statics[form]
        return signature_of(self._argument_name, statics, args, kwargs, self._show_values)

    def _record(
        self, bus: Bus, compilation: Compilation, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        is_mapped = any(isinstance(x, Tracer) for x in jax.tree_util.tree_leaves((args, kwargs)))
        trace = functools.partial(self.trace, *args, **kwargs) if hasattr(self, "trace") else None
        try:
            version = record(bus, self._own_name, None if is_mapped else trace, compilation)
        except Exception as error:
            if "record" not in self._faults:
                self._faults.add("record")
                warn_of_fault(self._own_name, error)
            return
        with self._lock:
            for i, known in enumerate(self._compilations):
                if known is compilation:
                    self._compilations[i] = replace(compilation, version=version)

    def _warn_once(self, error: Exception) -> None:
        if "explain" not in self._faults:
            self._faults.add("explain")
            warnings.warn(
                f"a compilation of {self._own_name} cannot be explained: "
                f"{type(error).__name__}: {show(str(error))}. This is said once.",
                stacklevel=5,
            )

    def _check_count(self) -> None:
        if self._max_compiles is not None and self._count > self._max_compiles:
            raise RecompilationError(self._own_name, self._max_compiles, self.compilations)


class _Codes:
    """How many function objects of the same code were compiled; of the newest codes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Any, tuple[int, Callable[[], Any]]] = OrderedDict()

    def add(self, watched: Watched[..., Any]) -> int:
        """Count one; how many others there were."""
        function = inspect.unwrap(watched)
        code = getattr(function, "__code__", None)
        if code is None:
            return 0
        key = code.co_filename, code.co_firstlineno, code.co_qualname
        with self._lock:
            others, newest = self._known.pop(key, (0, lambda: None))
            if others and newest() is function:
                others -= 1  # the same object, jitted anew
            self._known[key] = others + 1, weakref.ref(function)
            if len(self._known) > _MOST_CODES:
                self._known.popitem(last=False)
        return others


_codes = _Codes()


def _what(own: Sequence[StageTiming], is_first: bool) -> What:
    stages = {timing.stage for timing in own}
    if is_first:
        return "first"
    if "tracing" in stages:
        return "traced again"
    return "lowered again" if "lowering" in stages else "compiled again"


def _ms(own: Sequence[StageTiming], stage: str) -> float | None:
    times = [timing.ms for timing in own if timing.stage == stage]
    return sum(times) if times else None


@overload
def watch(
    function: Callable[P, R],
    *,
    bus: Bus | None = None,
    max_compiles: int | None = None,
    name: str | None = None,
    show_values: bool = False,
) -> Watched[P, R]: ...


@overload
def watch(
    function: None = None,
    *,
    bus: Bus | None = None,
    max_compiles: int | None = None,
    name: str | None = None,
    show_values: bool = False,
) -> Callable[[Callable[P, R]], Watched[P, R]]: ...


def watch(
    function: Any = None,
    *,
    bus: Bus | None = None,
    max_compiles: int | None = None,
    name: str | None = None,
    show_values: bool = False,
) -> Any:
    """Watch a jitted function: why it is compiled, each time, and how long that takes.

    Each call that compiles is compared with the nearest earlier one that did: shapes, dtypes, weak
    types, structure, static values, devices, shardings, memory kinds, whether arrays are committed
    to their place, layouts, the configuration of JAX, the mesh in scope, and whether it is another
    function object of the same code.

    Args:
        function: what `jax.jit` returns, or `equinox.filter_jit`; None makes a decorator.
        bus: where each compilation is also made a commit: the program is captured (`capture`), and
            the note says why. A bus that fails is warned of once, and the call goes on.
        max_compiles: how often it may compile, from 1; None for any number.
        name: its name in tables and commits; that of the function for None.
        show_values: whether static values are shown as they print, in 80 characters. Else numbers,
            enums, dtypes and names of functions are, and of all else (strings too, which may be
            secrets) its type.

    Returns:
        A `Watched`.

    Raises:
        TypeError: no jitted function; one that is watched; an argument of another type.
        ValueError: ``max_compiles`` below 1; a name that no program can have, as for `capture`.
        ClosedError: the bus is closed, or a reader.

    Cost: that of `Watched`; with a bus, about a quarter of what compiling takes.

    >>> import jax, jax.numpy as jnp
    >>> from mmsb_jax import programs
    >>> @programs.watch(max_compiles=2)
    ... @jax.jit
    ... def total(x, scale):
    ...     return scale * x.sum()
    >>> _ = total(jnp.ones(8), 1.0), total(jnp.ones(8), jnp.float32(2))
    >>> print(total.compilations[-1].why)
    argument scale: weak type yes -> no
    """
    if max_compiles is not None:
        _check_count(max_compiles)
    if bus is not None:
        _check_bus(bus)
    check_flag("show_values", show_values)
    if name is not None:
        check_name(name)
    if function is None:
        return functools.partial(
            watch, bus=bus, max_compiles=max_compiles, name=name, show_values=show_values
        )
    _check_jitted(function)
    if name is None:
        name = _name_of(function)
    listen()
    return Watched(function, bus, max_compiles, name, bool(show_values))


def _check_jitted(function: Any) -> None:
    if isinstance(function, Watched):
        raise TypeError(f"{show(function)} is watched already: its explain() says why it compiled")
    if not callable(function) or not callable(getattr(function, "lower", None)):
        raise TypeError(
            f"function={show(function)}: expected a jitted function. Call jax.jit first: "
            f"watch(jax.jit(f)), or @watch above @jax.jit."
        )
    if not hasattr(function, "trace") and not isinstance(function, _FILTER_JIT):
        raise TypeError(
            f"function={show(function)}: expected what jax.jit or equinox.filter_jit returns. What "
            f"others compile, jax.pmap for one, has another name in JAX and is not found: give "
            f"jax.jit(jax.shard_map(…))."
        )


def _check_count(max_compiles: Any) -> None:
    if not is_integer(max_compiles):
        raise TypeError(f"max_compiles={show(max_compiles)}: expected an integer, or None")
    if max_compiles < 1:
        raise ValueError(
            f"max_compiles={show(max_compiles)}: expected 1 or more, since the first call compiles"
        )


def _check_bus(bus: Any) -> None:
    check_kind("bus", bus, Bus, ", as mmsb.open gives it, or None")
    if bus.closed or bus.durability is None:
        why = "is closed" if bus.closed else "only reads (mode='r')"
        raise ClosedError(f"bus={bus!r} {why}; expected one that commits: mmsb.open(path)")


def _name_of(function: Any) -> str:
    """The name of a function, made one that a program can have."""
    text = str(getattr(function, "__name__", "function"))[:_MOST_NAME]
    plain = "".join(c if c.isprintable() and c not in "/*" else "_" for c in text)
    short = plain.encode()[:MOST_NAME_BYTES].decode(errors="ignore")
    return "function" if short in ("", ".", "..") else short
