"""Settings of all tests: what Hypothesis may spend, and types checked at run time.

The annotations of the core, shapes among them, are checked at every call (jaxtyping with
beartype). The hook has to be there before the first import of the package.
"""

import gc
import os
import signal
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

from tests._sampled import mark_long

install_import_hook("mmsb_jax._core", "beartype.beartype")

# A first call compiles, so a deadline says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=20)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("default"), derandomize=True, print_blob=True
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("default"), max_examples=1000
)
_default = "ci" if "CI" in os.environ else "default"
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _default))


def pytest_configure(config: pytest.Config) -> None:
    # What XLA has compiled is kept on disk and not in memory; JAX's files are not for two writers.
    if (cache := getattr(config, "cache", None)) is not None:
        worker = f"jax-{jax.__version__}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir(worker)))
        # Processes that tests start share theirs, which those that are killed may leave cut short.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.mkdir(f"{worker}-children"))
    # They compile the package once, and not each anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for setting, value in (("min_compile_time_secs", 0.02), ("min_entry_size_bytes", -1)):
        jax.config.update(f"jax_persistent_cache_{setting}", value)
        os.environ[f"JAX_PERSISTENT_CACHE_{setting.upper()}"] = str(value)
    # A shell starts what is to run in the background with interrupts ignored, and so are children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # beartype checks an item of a container by chance; a strategy may call what it checks.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_long(items)
    # Files of few and long tests first, so that no worker is left with one of them at the end.
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/torture", "tests/test_")))


def pytest_collection_finish() -> None:
    # The tests and what they import stay: no collection of garbage need go through them.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _newest_version_is_in_the_log(monkeypatch):
    """What a writer gives of its newest version from memory is compared with the log."""
    from mmsb_jax._bus.engine.session import Session

    state_now = Session.state_now

    def compared(session, version, wanted):
        logged = session.log.state(version, wanted, executor=session.threads)
        state = state_now(session, version, wanted)
        assert state.table.arrays == logged.table.arrays
        assert state.table.values == logged.table.values
        for array_id, words in logged.words.items():
            assert state.words[array_id].tobytes() == words.tobytes()
        return state

    monkeypatch.setattr(Session, "state_now", compared)


_MOST_BYTES = 900_000_000


@pytest.fixture(autouse=True, scope="module")
def _let_go_of_programs():
    """Thousands of compiled programs would take gigabytes."""
    yield
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    if resident * os.sysconf("SC_PAGE_SIZE") > _MOST_BYTES:
        jax.clear_caches()
