"""``mmsb demo``: the wrapper, not the demonstration."""

import sys
import types
from pathlib import Path

import pytest

from mmsb_jax._base.errors import LockedError


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


def test_demo_without_its_extra_exits_3_and_says_what_to_install(mmsb, runs, monkeypatch):
    def fail(_: Path) -> None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(sys.modules["mmsb_jax.demo"], "run", fail)
    ran = mmsb("demo")
    assert ran.code == 3
    assert ran.err == (
        "error: the demo needs sklearn, which is not installed: pip install 'mmsb-jax[demo]'\n"
    )


@pytest.mark.parametrize(
    ("out", "code"), [("", 2), ("a\0b", 2), ("a\ud800", 2), ("s3://bucket", 3), ("file", 3)]
)
def test_demo_to_a_bad_place_says_why_and_does_not_run(
    mmsb, runs, tmp_path, monkeypatch, out, code
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    ran = mmsb("demo", "--out", out)
    assert (ran.code, runs) == (code, [])
    assert ran.err.splitlines()[-1].startswith("Error: " if code == 2 else "error: ")


def test_demo_that_the_disk_refuses_exits_3(mmsb, runs, monkeypatch):
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["mmsb_jax.demo"], "run", fail)
    ran = mmsb("demo", "--out", "there")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "there" in ran.err
    assert "No space left on device" in ran.err
