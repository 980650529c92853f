"""What JAX says of its compilations, thread by thread, as they happen.

JAX tells listeners of `jax.monitoring` when it has traced, lowered or compiled a function, in the
thread that called it. One listener, registered once, keeps the newest in each thread. Whoever wants
to know whether a call has compiled compares `heard.count` before and after it: that is all that it
costs a call which compiles nothing.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax

Stage = Literal["tracing", "lowering", "compiling"]

_STAGES: dict[str, Stage] = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
_CACHE_ASKED = "/jax/compilation_cache/compile_requests_use_cache"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_CACHE_MISS = "/jax/compilation_cache/cache_misses"
_TRIAL = "/mmsb_jax/listening"
_MOST_KEPT = 1024


@dataclass(slots=True, eq=False)
class StageTiming:
    """One stage of one compilation.

    Attributes:
        stage: which.
        function: the name of the function.
        ms: how long it took, in milliseconds.
        cache_hit: of compiling: whether it came from the persistent compilation cache; None where
            JAX did not look there.
        is_taken: whether someone has said that it is theirs.
    """

    stage: Stage
    function: str
    ms: float
    cache_hit: bool | None = None
    is_taken: bool = False


class Heard(threading.local):
    """What was heard in this thread.

    Attributes:
        count: stages so far; it only grows.
        timings: the newest of them, oldest first.
        handlers: called with each, as it ends.
    """

    def __init__(self) -> None:
        self.count = 0
        self.timings: deque[StageTiming] = deque(maxlen=_MOST_KEPT)
        self.handlers: list[Callable[[StageTiming], None]] = []
        self.cache_hit: bool | None = None
        self.trials = 0

    def since(self, count: int) -> list[StageTiming]:
        """The stages that came after the first ``count``, as far as they are kept."""
        new = min(self.count - count, len(self.timings))
        return list(self.timings)[len(self.timings) - new :]

    def ms_since(self, count: int) -> float:
        """How long these took, in milliseconds."""
        return sum(timing.ms for timing in self.since(count))


heard = Heard()
_registering = threading.Lock()


def listen() -> None:
    """See to it that JAX tells us: the listeners are registered once.

    ``jax.monitoring.clear_event_listeners`` takes them away, and the next call brings them back.
    """
    with _registering:
        before = heard.trials
        jax.monitoring.record_event(_TRIAL)
        if heard.trials == before:
            jax.monitoring.register_event_listener(_on_event)
            jax.monitoring.register_event_duration_secs_listener(_on_duration)


def _on_event(event: str, **_: Any) -> None:
    if event == _TRIAL:
        heard.trials += 1
    elif event in (_CACHE_ASKED, _CACHE_MISS):
        heard.cache_hit = False
    elif event == _CACHE_HIT:
        heard.cache_hit = True


def _on_duration(event: str, duration_secs: float, **said: Any) -> None:
    stage = _STAGES.get(event)
    if stage is None:
        return
    name = str(said.get("fun_name") or "")
    if name.startswith("jit(") and name.endswith(")"):
        name = name[4:-1]
    timing = StageTiming(stage, name, duration_secs * 1e3)
    if stage == "compiling":
        timing.cache_hit, heard.cache_hit = heard.cache_hit, None
    heard.count += 1
    heard.timings.append(timing)
    for handler in list(heard.handlers):
        handler(timing)
