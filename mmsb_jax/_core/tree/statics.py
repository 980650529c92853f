"""Statics: what of a tree is not a leaf, as texts by which it is compared between processes.

Static fields, arguments of partial functions and metadata of nodes hold any object. Its text says
what it is, as far as that means the same in another process: None, bools, numbers, strings, bytes,
enums, dtypes, arrays by digest, functions and classes by qualified name, containers and dataclasses
of these. Anything else is *opaque*: its type alone.
"""

import dataclasses
import enum
import functools
import json
import types
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import xxhash
from jax.core import Tracer

from mmsb_jax._core.tree.leaves import PYTHON_NUMBERS, host_array, qualified_name

MAX_TEXT = 1024
"""Longer texts are cut, and end with the hash of the whole."""

_KEPT_OF_LONG = 256
_MAX_DEPTH = 16
_SHORT_BYTES = 64
_INT64 = range(-(2**63), 2**63)


@dataclass(slots=True)
class Static:
    """A value as it is recorded.

    Attributes:
        text: what it is.
        opaque: the objects in it of which the text says the type alone.
        can_change: whether it, or an object in it, can be changed in place, or is an array: those
            have no truth value, and are compared by their digests.
    """

    text: str = ""
    opaque: list[Any] = field(default_factory=list)
    can_change: bool = False

    @classmethod
    def of(cls, value: Any) -> "Static":
        """What is recorded of ``value``."""
        static = cls()
        text = static._text_of(value, _MAX_DEPTH)
        static.text = shortened(text.encode("ascii", "backslashreplace").decode())
        return static

    def is_same(self, other: "Static") -> bool:
        """Whether both say the same; opaque objects must compare equal."""
        return (
            self.text == other.text
            and len(self.opaque) == len(other.opaque)
            and all(map(_are_equal, self.opaque, other.opaque))
        )

    def _text_of(self, value: Any, depth: int) -> str:
        if not depth:
            return self._opaque(value)
        text = _text_of_plain(value)
        if text is not None:
            return text
        kind = type(value)
        inner = functools.partial(self._text_of, depth=depth - 1)
        if isinstance(value, np.ndarray | jax.Array):
            return self._text_of_array(value)
        if isinstance(value, functools.partial):
            said = [inner(value.func), *map(inner, value.args)]
            said += [f"{name}={inner(item)}" for name, item in sorted(value.keywords.items())]
            return f"partial({', '.join(said)})"
        if isinstance(value, types.MethodType):
            return f"{_text_of_function(value.__func__)} of {inner(value.__self__)}"
        if isinstance(value, type) or (callable(value) and _has_name(value)):
            return _text_of_function(value)
        if dataclasses.is_dataclass(value):
            fields = [f.name for f in dataclasses.fields(value) if f.compare]
            said = [f"{name}={inner(getattr(value, name, None))}" for name in fields]
            return f"{kind.__qualname__}({', '.join(said)})"
        if isinstance(value, Mapping):
            self.can_change |= isinstance(value, MutableMapping)
            items = sorted((inner(key), inner(item)) for key, item in value.items())
            body = "{" + ", ".join(f"{key}: {item}" for key, item in items) + "}"
            return body if kind is dict else f"{kind.__qualname__}({body})"
        names = getattr(value, "_fields", None)
        if isinstance(value, tuple) and names is not None:
            said = [f"{name}={inner(item)}" for name, item in zip(names, value, strict=True)]
            return f"{kind.__qualname__}({', '.join(said)})"
        if isinstance(value, list | tuple) and kind in (list, tuple):
            self.can_change |= kind is list
            body = ", ".join(map(inner, value))
            return f"[{body}]" if kind is list else f"({body})"
        if isinstance(value, set | frozenset) and kind in (set, frozenset):
            self.can_change |= kind is set
            return f"{kind.__name__}({', '.join(sorted(map(inner, value)))})"
        return self._opaque(value)

    def _text_of_array(self, array: Any) -> str:
        self.can_change = True
        if isinstance(array, Tracer) or array.dtype == object:
            return self._opaque(array)
        try:
            raw = host_array(array)
        except RuntimeError:  # of JAX, and deleted
            return self._opaque(array)
        digest = xxhash.xxh3_128_hexdigest(raw.tobytes())
        return f"{array.dtype}[{','.join(map(str, array.shape))}] {digest}"

    def _opaque(self, value: Any) -> str:
        self.opaque.append(value)
        return f"a {qualified_name(type(value))}"


def shortened(text: str) -> str:
    """``text``, or its beginning and its hash."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:_KEPT_OF_LONG]}... {xxhash.xxh3_128_hexdigest(text.encode())}"


def _text_of_plain(value: Any) -> str | None:
    """The text of what holds no other objects; None for the rest."""
    if value is None or isinstance(value, bool) or value is ...:
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name or repr(value.value)}"
    kind = type(value)
    if kind is int:
        return str(value) if value in _INT64 else hex(value)
    if kind in PYTHON_NUMBERS or isinstance(value, np.generic):
        return repr(value)
    if kind is str:
        return json.dumps(value)
    if kind is bytes:
        digest = xxhash.xxh3_128_hexdigest
        return repr(value) if len(value) <= _SHORT_BYTES else f"bytes[{len(value)}] {digest(value)}"
    dtype = getattr(value, "dtype", None) if isinstance(value, type) else value
    if isinstance(value, type) and issubclass(value, np.generic):
        dtype = np.dtype(value)
    return f"dtype {dtype}" if isinstance(dtype, np.dtype) else None


def _has_name(function: Any) -> bool:
    return isinstance(getattr(function, "__name__", None), str)


def _text_of_function(function: Any) -> str:
    name = qualified_name(function)
    if hasattr(function, "__qualname__"):
        return f"function {name}"
    return f"function {name} {function.__name__}"  # such as jnp.add, a jax.numpy.ufunc


def _are_equal(left: Any, right: Any) -> bool:
    if left is right:
        return True
    try:
        return bool(left == right)
    except Exception:  # what cannot be compared is not known to be equal
        return False
