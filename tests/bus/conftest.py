"""What the tests of the bus share."""

import faulthandler
from collections.abc import Iterator

import jax
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.commit import tally
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.writer.create import create_log
from mmsb_jax.testing._faulty import Faults, FaultyFiles, open_on
from tests.bus._threads import PATIENCE_S, Threads

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def bus() -> Iterator[mmsb.Bus]:
    with mmsb.open() as opened:
        yield opened


@pytest.fixture(params=["memory", "disk"])
def any_bus(request, tmp_path) -> Iterator[mmsb.Bus]:
    """A bus of each kind: the same code, the same behaviour."""
    path = None if request.param == "memory" else tmp_path / "run.mmsb"
    with mmsb.open(path) as opened:
        yield opened


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of some states, however small these are."""
    monkeypatch.setattr(tally, "LEAST_TOTAL_BYTES", 0)
    monkeypatch.setattr(tally, "LEAST_SPARSE_BYTES", 0)


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """An entry for every program that XLA compiles while the test runs."""
    found: list[str] = []

    def note(event: str, seconds: float, **about: object) -> None:
        if event == _COMPILE_EVENT:
            found.append(str(about))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def faulty_bus(faults) -> Iterator[mmsb.Bus]:
    """A bus in memory whose files fail as ``faults`` says."""
    files = MemoryFiles()
    create_log(files, 4096)
    with open_on(FaultyFiles(files, faults)) as opened:
        yield opened
        faults.disarm()


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Threads that end with the test."""
    started = Threads()
    yield started
    started.join()


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends the tests, with all stacks, where one of them waits for ever."""
    faulthandler.dump_traceback_later(4 * PATIENCE_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
