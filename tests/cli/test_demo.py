"""``mmsb demo``: the wrapper, not the demonstration."""

import sys
import types
from pathlib import Path

import pytest

from mmsb_jax._errors import LockedError


@pytest.fixture
def runs(monkeypatch) -> list[Path]:
    """The places that the demonstration was run with."""
    seen: list[Path] = []
    stub = types.ModuleType("mmsb_jax.demo")
    stub.run = lambda out: seen.append(out) or True
    monkeypatch.setitem(sys.modules, "mmsb_jax.demo", stub)
    return seen


@pytest.mark.parametrize(
    ("options", "out"), [([], "demo-output"), (["--out", "elsewhere"], "elsewhere")]
)
def test_demo_runs_the_demonstration_in_its_place(mmsb, runs, options, out):
    assert mmsb("demo", *options).code == 0
    assert runs == [Path(out)]


def test_demo_whose_runs_differ_exits_1(mmsb, runs, monkeypatch):
    monkeypatch.setattr(sys.modules["mmsb_jax.demo"], "run", lambda _: False)
    assert mmsb("demo").code == 1


def test_demo_that_fails_on_purpose_exits_3(mmsb, runs, monkeypatch):
    def fail(_: Path) -> None:
        raise LockedError("another process is writing it")

    monkeypatch.setattr(sys.modules["mmsb_jax.demo"], "run", fail)
    ran = mmsb("demo")
    assert ran.code == 3
    assert "another process is writing it" in ran.err
