"""Quiet waves: what follows from a change of one array where functions run, and nothing else.

Nothing is stale, gated, deferred or made anew, and all that is behind the array is small. Then
there is nothing to prepare and no mark to set. What leads there is found once, and kept as long as
the graph is as it was.
"""

import time
from collections.abc import Callable

import numpy as np

from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._graph.wave.wave import Wave, WaveRequest
from mmsb_jax._store.commit.plain import SmallArray


class QuietWave:
    """The wave behind a change of one array, as the `DerivationTransaction` of its commit.

    Args:
        derivations: those of the bus; they are quiet.
        name: the array that changes.
        arrays: a small array of the bus by its name.
    """

    def __init__(
        self, derivations: Derivations, name: str, arrays: Callable[[str], SmallArray]
    ) -> None:
        self._all = derivations
        self._name = name
        self._arrays = arrays
        phases = derivations.waves.phases(WaveRequest(changed=frozenset({name})))
        self._phases = [phase for phase in phases if phase.nodes]
        self._changed = (name,)
        self._runs: dict[str, int] = {}
        self.wave = Wave()
        self.wave_ns = 0

    @property
    def is_small(self) -> bool:
        """Whether one program computes all of it."""
        return len(self._phases) == 1 and self._phases[0].is_small

    def run(self, new: np.ndarray) -> list[tuple[SmallArray, np.ndarray]]:
        """The arrays behind with all their words, where ``new`` are those of the array."""
        begun, arrays, name = time.perf_counter_ns(), self._arrays, self._name

        def words(wanted: str) -> np.ndarray:
            return new if wanted == name else arrays(wanted).words

        waves, (phase,) = self._all.waves, self._phases
        schedule = waves.schedule(phase, phase.nodes, is_first=False)
        ran, results = waves.run_schedule(schedule, phase.nodes, words, self._changed)
        self.wave = Wave(results, ran)
        self.wave_ns = time.perf_counter_ns() - begun
        runs = self._all.runs
        self._runs = {node.name: runs[node.name] + 1 for node in ran}
        return [
            (arrays(made), after)
            for made, after in results.items()
            if isinstance(after, np.ndarray)  # of small nodes all are
        ]

    def done(self) -> None:
        """The commit has landed. It may be called again: everything is set, and nothing added."""
        for name, count in self._runs.items():
            self._all.runs[name] = count
