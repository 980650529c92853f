"""Where in the user's code a call stands."""

import contextlib
import functools
import os
import sys
from types import FrameType

import equinox
import jax

from mmsb_jax._display.text import printable

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_INSIDE = (
    _PACKAGE + os.sep,
    *(os.path.dirname(module.__file__ or "") + os.sep for module in (jax, equinox)),
    *(module.__file__ or "" for module in (contextlib, functools)),
)


def call_site() -> str | None:
    """The nearest caller that is neither JAX, Equinox nor this library: ``train.py:31 in main``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_INSIDE):
            where = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
            return printable(where[:160])
        frame = frame.f_back
    return None
