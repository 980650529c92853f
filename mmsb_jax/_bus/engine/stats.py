"""Counters of a bus, and the table that they are shown as."""

import threading
from collections import deque
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mmsb_jax._compile.made import MadePrograms
from mmsb_jax._display.html import html_table
from mmsb_jax._display.text import aligned
from mmsb_jax._store.commit.head import Landed

_LATENCIES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Stats:
    """What a bus holds and has done.

    Attributes:
        version: newest version.
        durable_version: newest version that survives a power cut.
        arrays: arrays at the newest version.
        pages: pages of these.
        state_bytes: bytes of these.
        host_bytes: bytes that the bus holds of them: its own state, with the versions of its pages,
            what was saved in part since the newest whole version, the copies of commits that do not
            wait, and their buffers; these it lets go of with `sync`, and with a commit that waits.
        device_bytes: bytes that the bus holds on devices: what was committed last, where
            ``shadow=`` keeps it there.
        segments, snapshots: files of the log.
        snapshot_fault: why the last snapshot was not made; None when all is well.
        keep_fault: why the last giving up of bytes, by ``keep=``, came to nothing; None when all
            is well.
        keep_runs: how often bytes were given up by it, since the bus was opened.
        unranked: versions that could not be ranked as `Best` at its last look: their notes do not
            say it, or say NaN.
        copied_version: the newest version that the copy of ``copy_to=`` has; None without one.
        copy_fault: why the copy was not brought forward at the last try; None when all is well.
        queued: commits that have not landed yet.
        programs: programs compiled for commits that do not wait: the newest 64, each with ``name``,
            ``why`` and ``ms``; ``.total`` is their number.
        commits: commits since the counters were reset; so are the following.
        unchanged_commits: those in which no byte differed.
        unsaved_commits: those of which digests alone were logged.
        changed_bytes: bytes that differed.
        logged_bytes: bytes written to the log.
        moved_bytes: bytes of arrays of JAX that commits have brought to the host, which on a CPU is
            where they are.
        blocked_ms: time that commits which do not wait have waited for room, in milliseconds.
        commit_ms_p50, commit_ms_p99: time from comparison to the log's answer, in milliseconds,
            of the newest 4,096 commits; None where there were none.
        derived, stale: derived arrays' functions, and those of them that are stale.
        edges, depth: of the graph.
        wave_programs: programs compiled for derived arrays, in the same form.
        waves: commits in which a function ran, since the counters were reset; so are the following.
        functions_run: how many ran in them together.
        wave_ms_p50, wave_ms_p99: time that these took, in milliseconds; None where there were none.
        failed_handlers: exceptions in handlers of events that are kept.
    """

    version: int
    durable_version: int
    arrays: int
    pages: int
    state_bytes: int
    host_bytes: int
    device_bytes: int
    segments: int
    snapshots: int
    snapshot_fault: str | None
    keep_fault: str | None
    keep_runs: int
    unranked: int
    copied_version: int | None
    copy_fault: str | None
    queued: int
    programs: MadePrograms
    commits: int
    unchanged_commits: int
    unsaved_commits: int
    changed_bytes: int
    logged_bytes: int
    moved_bytes: int
    blocked_ms: float
    commit_ms_p50: float | None
    commit_ms_p99: float | None
    derived: int
    stale: int
    edges: int
    depth: int
    wave_programs: MadePrograms
    waves: int
    functions_run: int
    wave_ms_p50: float | None
    wave_ms_p99: float | None
    failed_handlers: int

    def to_dict(self) -> dict[str, Any]:
        """The counters by name, the programs as dicts: fit for JSON."""
        return {name: _plain(value) for name, value in self._values()}

    def __str__(self) -> str:
        return "\n".join(aligned(self._rows()))

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        return [(name, _shown(value)) for name, value in self._values()]

    def _values(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def _plain(value: Any) -> Any:
    return value.to_dicts() if isinstance(value, MadePrograms) else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


class Meter:
    """Counts commits; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin again at zero."""
        with self._lock:
            self.commits = self.unchanged = self.unsaved = 0
            self.changed_bytes = self.logged_bytes = 0
            self.waves = self.functions_run = self.blocked_ns = self.moved_bytes = 0
            self._commits_ns: deque[int] = deque(maxlen=_LATENCIES_KEPT)
            self._waves_ns: deque[int] = deque(maxlen=_LATENCIES_KEPT)

    def count_commit(self, landed: Landed, elapsed_ns: int) -> None:
        """Count one commit."""
        with self._lock:
            self.commits += 1
            self.unchanged += landed.is_saved and landed.changed_bytes == 0
            self.unsaved += not landed.is_saved
            self.changed_bytes += landed.changed_bytes
            self.logged_bytes += landed.logged_bytes
            self._commits_ns.append(elapsed_ns)

    def count_moved(self, nbytes: int) -> None:
        """Count bytes that came from devices to the host."""
        with self._lock:
            self.moved_bytes += nbytes

    def count_blocked(self, elapsed_ns: int) -> None:
        """Count the time that a commit has waited for room."""
        with self._lock:
            self.blocked_ns += elapsed_ns

    def count_wave(self, functions: int, elapsed_ns: int) -> None:
        """Count one wave in which functions ran."""
        with self._lock:
            self.waves += 1
            self.functions_run += functions
            self._waves_ns.append(elapsed_ns)

    def commit_ms(self, percent: float) -> float | None:
        """A percentile of the newest commits' times, in milliseconds."""
        return self._percentile_ms(self._commits_ns, percent)

    def wave_ms(self, percent: float) -> float | None:
        """A percentile of the newest waves' times, in milliseconds."""
        return self._percentile_ms(self._waves_ns, percent)

    def _percentile_ms(self, times_ns: deque[int], percent: float) -> float | None:
        with self._lock:
            return float(np.percentile(list(times_ns), percent)) / 1e6 if times_ns else None
