"""Interrupts at every bytecode: what Ctrl-C does in the worst moment, each moment once."""

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any


class Interrupted(BaseException):
    """What is raised."""


def interrupted(act: Callable[[], Any], where: ModuleType, moment: int) -> bool:
    """Call ``act`` and raise at a bytecode of ``where``; False where it ended before that one."""
    left = moment

    def traced(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not _is_in(frame.f_code, where):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Interrupted
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        act()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def moments(act: Callable[[], Any], where: ModuleType) -> Iterator[int]:
    """Interrupt ``act`` at each of its bytecodes in turn, and yield after each."""
    moment = 0
    while interrupted(act, where, moment):
        yield moment
        moment += 1


def _is_in(code: CodeType, where: ModuleType) -> bool:
    return code.co_filename == where.__file__
