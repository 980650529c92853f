"""The demo, with few steps: what it prints and draws agrees with the logs that it leaves."""

import contextlib
import io
import re

import pytest

import mmsb_jax as mmsb
from mmsb_jax import demo
from mmsb_jax.demo import _story

STEPS = 30


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """(directory, what was printed, what was returned)."""
    out = tmp_path_factory.mktemp("demo")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        equal = demo.run(out, steps=STEPS)
    return out, printed.getvalue(), equal


def test_demo_resumed_run_equals_the_uninterrupted_one(played):
    out, text, equal = played
    assert equal
    assert "Equal, byte for byte" in text
    with (
        mmsb.open(out / "killed.mmsb", mode="r") as one,
        mmsb.open(out / "whole.mmsb", mode="r") as other,
    ):
        assert one.version == other.version == STEPS
        assert not _story.differing_arrays(one.tree(), other.tree())
        assert _story.differing_arrays(one.checkout(version=5), other.tree())


def test_demo_tables_say_what_the_log_says(played):
    out, text, _ = played
    with mmsb.open(out / "killed.mmsb", mode="r") as bus:
        logged = sum(commit.logged_bytes for commit in bus.log(since=2))
        assert f"{logged / 1e6:.1f} MB" in text
    assert f"{STEPS} versions replayed" in text


def test_demo_fork_goes_on_from_the_middle_with_another_rate(played):
    out, _, _ = played
    with mmsb.open(out / "fork.mmsb", mode="r") as fork:
        rates = [float(entry.value) for entry in fork.history("opt/hyperparams/learning_rate")]
    assert rates == pytest.approx([3e-3, _story.FORK_RATE])


def test_demo_picture_is_a_png(played):
    out, _, _ = played
    raw = (out / "demo.png").read_bytes()
    assert raw.startswith(b"\x89PNG\r\n")
    assert raw.rstrip().endswith(b"IEND\xaeB`\x82")
    assert len(re.findall(b"IDAT", raw)) >= 1


def test_differing_arrays_tells_a_bit_from_its_negative():
    assert _story.differing_arrays({"x": 0.0, "y": 1}, {"x": -0.0, "y": 1}) == ["x"]
