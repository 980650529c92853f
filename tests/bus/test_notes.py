"""What the notes of a run say, and the first commit for which something holds."""

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

import mmsb_jax as mmsb


@pytest.fixture
def noted(bus):
    for step in range(30):
        note = {"loss": 30 - step} | ({"eval": {"loss": step / 10}} if step % 10 == 0 else {})
        bus.commit({"w": jnp.full(2, float(step)), "b": jnp.zeros(step // 20)},
                   step=step, note=note, structure="new")  # fmt: skip
    return bus


def test_notes_are_a_series(noted):
    series = noted.notes("loss")
    assert len(series) == 30
    assert series.versions.tolist() == list(range(1, 31))
    assert series.steps == list(range(30))
    assert list(series) == list(range(30, 0, -1))
    assert np.asarray(series).sum() == 465
    assert np.asarray(series, np.float32).dtype == np.float32
    within = noted.notes("eval/loss")
    assert (within.steps, within.values) == ([0, 10, 20], [0.0, 1.0, 2.0])
    assert noted.notes("eval").values[1] == {"loss": 1.0}


def test_a_series_prints_and_is_drawn(noted):
    series = noted.notes("loss")
    lines = repr(series).splitlines()
    assert lines[0].split() == ["version", "step", "value"]
    assert lines[1].split() == ["11", "10", "20"]
    assert lines[-1] == "The newest 20 of 30 values of 'loss'."
    assert series._repr_html_().count("<tr>") == 21
    frame = series.to_pandas()
    assert (frame.name, frame.loc[30]) == ("loss", 1)
    mpl.use("agg")
    axes = series.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert axes.lines[0].get_ydata()[0] == 30


def test_commits_without_a_step_or_a_note_are_no_matter(bus):
    bus.commit({"w": 1.0}, note={"loss": 2})
    bus.commit({"w": 2.0}, note="word", step=7)
    bus.commit({"w": 3.0}, note={"loss": 1}, step=8)
    series = bus.notes("loss")
    assert (series.versions.tolist(), series.steps) == ([1, 3], [None, 8])
    assert series.plot().get_xlabel() == "version"
    assert repr(series).splitlines()[1].split() == ["1", "–", "2"]


def test_what_no_note_says_is_refused(noted):
    with pytest.raises(mmsb.ArrayNotFoundError, match="They say 'loss'"):
        noted.notes("los")
    with mmsb.open() as empty, pytest.raises(mmsb.ArrayNotFoundError, match="None has entries"):
        empty.notes("loss")


def test_the_first_commit_is_found(noted):
    assert noted.first(lambda commit: commit.note["loss"] < 25).step == 6
    assert noted.first(lambda commit: "eval" in commit.note and commit.step).step == 10
    assert noted.first(lambda commit: False) is None
    assert noted.first("w").step == 1
    assert noted.first(["x*", "w"]).step == 1
    assert noted.first("nothing") is None


def test_superseded_commits_are_passed_over(noted):
    noted.resume({"w": jnp.zeros(2), "b": jnp.zeros(0)}, at=noted.at(step=4))
    noted.commit({"w": jnp.ones(2), "b": jnp.zeros(0)}, step=5, note={"loss": 99})
    assert noted.notes("loss").values[-2:] == [26, 99]
    assert len(noted.notes("loss", lineage="all")) == 31
    assert noted.first(lambda commit: commit.step == 5).note == {"loss": 99}
    assert noted.first(lambda commit: commit.step == 5, lineage="all").version == 6


def test_values_of_an_array_are_stacked(noted):
    assert noted.history("w").stack()[:, 0].tolist() == list(map(float, range(30)))
    with pytest.raises(mmsb.StructureError, match=r"float32\[0\] since version 1, .*version 21"):
        noted.history("b").stack()
    noted.create("x", (2,), "bfloat16")
    noted.write("x", jnp.ones(2, jnp.bfloat16))
    assert noted.history("x").stack().dtype == jnp.bfloat16
    noted.delete("x")
    with pytest.raises(mmsb.StructureError, match="was deleted"):
        noted.history("x").stack()
