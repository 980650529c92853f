"""The run of the language model, at its smallest: what it says is so; what is not so ends it."""

import contextlib
import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax.demo import language
from mmsb_jax.demo.language import _loop, _model, _story, _training

SIZE = _model.SIZES["tiny"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(directory, what was printed)."""
    out = tmp_path_factory.mktemp("language")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        language.run(out, "tiny")
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def step():
    return _training.make_step(SIZE, _training.adam(SIZE))


def start():
    return _training.start(SIZE, _training.adam(SIZE))


def test_run_killed_spoiled_and_taken_back_ends_as_the_one_that_nothing_interrupted(told):
    out, printed = told
    assert "killed by SIGKILL" in printed
    with (
        mmsb.open(out / "run.mmsb", mode="r") as run,
        mmsb.open(out / "whole.mmsb", mode="r") as whole,
    ):
        ends = run.checkout(step=SIZE.steps), whole.checkout(step=SIZE.steps)
        assert ends[0].keys() == ends[1].keys() == whole.tree().keys()
        for name in ends[0]:
            assert np.asarray(ends[0][name]).tobytes() == np.asarray(ends[1][name]).tobytes()
        assert whole.version == SIZE.steps < run.version
        assert run.verify()


def test_nan_is_named_where_it_was_put(told):
    out, printed = told
    with mmsb.open(out / "run.mmsb", mode="r") as run:
        spoiled = run.checkout(version="spoiled")
        (at,) = {
            commit.step
            for commit in run.commits
            if f"the first NaN is in step {commit.step}, in {_loop.SPOILED}\n" in printed
        }
        assert np.isnan(np.asarray(spoiled[_loop.SPOILED])).any()
        assert np.isnan(run.commits[run.tags()["spoiled"] - 1].note["loss"])
        assert SIZE.save_every < at < SIZE.steps
    assert f"the loss shows it at step {at + 1}\n" in printed


def test_fork_of_the_run_goes_on_with_a_tenth_of_the_rate(told):
    out, _ = told
    with mmsb.open(out / "slower.mmsb", mode="r") as fork:
        rates = [float(entry.value) for entry in fork.history("opt/hyperparams/learning_rate")]
        assert rates == pytest.approx([SIZE.rate, SIZE.rate / 10])
        assert fork.latest.step == SIZE.steps


def test_step_that_is_not_the_one_of_the_run_is_found(told, step):
    out, _ = told

    def other(state, extra):
        state, extra = step(state, extra)
        return (_loop.spoil(state) if extra["next"] == 5 else state), extra

    with (
        mmsb.open(out / "whole.mmsb", mode="r") as bus,
        pytest.raises(mmsb.DigestMismatchError) as caught,
    ):
        bus.rerun(other, like=start(), to=bus.at(step=8))
    assert (caught.value.step, caught.value.arrays) == (5, (_loop.SPOILED,))


def test_story_ends_where_it_is_not_so(told, monkeypatch):
    out, _ = told
    with mmsb.open(out / "whole.mmsb", mode="r") as bus:
        found = bus.at(step=3), (_loop.SPOILED,)
        monkeypatch.setattr(mmsb.Bus, "first_nonfinite", lambda *_: found)
        with pytest.raises(mmsb.MMSBError, match="this is not so: the first NaN"):
            _story._find_nan(bus, 4)


def test_training_that_ends_otherwise_than_it_should_is_reported():
    with pytest.raises(mmsb.MMSBError, match="was to end with code -9, and ended with"):
        _story._run_child(-9, "--no-such-thing")


def test_command_refuses_a_place_that_is_a_file(tmp_path):
    place = tmp_path / "file"
    place.write_text("mine")
    command = [sys.executable, "-m", "mmsb_jax.demo.language", "--size", "tiny", "--out", place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not a directory" in done.stderr
    assert place.read_text() == "mine"


def test_batch_follows_from_the_number_of_its_step():
    text = _training.read_text()
    assert b'The "with" statement' in text.tobytes()
    ours, again, other = (_training.batch_of(text, SIZE, number) for number in (3, 3, 4))
    assert ours.shape == (SIZE.batch, SIZE.context + 1)
    assert (ours == again).all()
    assert (ours != other).any()
    assert ours[0].astype(np.uint8).tobytes() in text.tobytes()


def test_model_sees_nothing_of_what_comes():
    params = _model.init(SIZE, jax.random.key(0), jnp.float32)
    text = np.arange(2 * SIZE.context).reshape(2, -1) % 256
    changed = text.copy()
    changed[:, 9:] += 1
    ours, theirs = (_model.logits(params, given, SIZE.heads) for given in (text, changed))
    assert (ours[:, :9] == theirs[:, :9]).all()
    assert (ours[:, 9:] != theirs[:, 9:]).any()


def test_large_form_has_twenty_million_parameters():
    size = _model.SIZES["20m"]
    made = jax.eval_shape(lambda: _training.start(size, _training.adam(size)))
    assert sum(x.size for x in jax.tree.leaves(made["params"])) >= 20e6
