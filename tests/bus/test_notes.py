"""What the notes of a run say, and the first commit for which something holds."""

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.log.log import Log


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
    with mmsb.open() as empty, pytest.raises(mmsb.ArrayNotFoundError, match="There are no entries"):
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


def test_what_is_said_later_stands_in_the_note(noted, tmp_path):
    said = noted.annotate(noted.at(step=10), {"accuracy": jnp.float32(0.5), "eval": 7})
    assert (said.version, said.changed, said.note) == (31, (), None)
    noted.annotate(11, {"accuracy": 0.75})
    expected = {"loss": 20, "eval": 7, "accuracy": 0.75}
    assert noted.at(step=10).note == noted.commits[10].note == expected
    assert noted.notes("accuracy").versions.tolist() == [11]
    assert noted.first(lambda commit: "accuracy" in commit.note).step == 10
    assert next(noted.log(since=11)).note == expected
    assert noted.at(step=11).note == {"loss": 19}
    with noted.fork(tmp_path / "fork") as fork:
        fork.compact(keep_since=20)
        assert fork.at(step=10).note == expected
        with mmsb.open(fork.path, mode="r") as reader:
            assert reader.at(step=10).note == expected
            with mmsb.open() as other:
                other.import_(noted.export(since=0))
                assert other.at(step=10).note == expected
    with noted.fork(version=20) as earlier:
        assert "accuracy" not in earlier.at(step=10).note
    assert noted.verify()


def test_a_version_without_bytes_or_a_note_is_annotated_too():
    with mmsb.open(save=mmsb.Every(steps=10)) as bus:
        for step in range(5):
            bus.commit({"w": jnp.full(2, float(step))}, step=step)
        assert not bus.annotate(3, {"accuracy": 1}).saved
        assert bus.at(step=2).note == {"accuracy": 1}
        assert bus.commit({"w": jnp.zeros(2)}, step=5, save=True).saved
        assert bus.annotate(3, {"late": 2}).saved
        assert bus.at(step=2).note == {"accuracy": 1, "late": 2}
        assert bus.verify()


def test_a_reader_looks_at_each_header_once(tmp_path, monkeypatch):
    tables, table = [], Log.table
    monkeypatch.setattr(Log, "table", lambda log, version: tables.append(1) or table(log, version))
    with mmsb.open(tmp_path) as bus, mmsb.open(tmp_path, mode="r") as reader:
        bus.commit({"w": 0.0}, step=0, note={})
        followed = reader.follow(after=0, timeout=0)
        assert next(followed).note == {}
        for step in range(1, 20):
            bus.commit({"w": float(step)}, step=step)
            bus.annotate(1, {"step": step})
            assert reader.at(step=0).note == {"step": step}
            assert reader.latest.note is None
        assert len(tables) == 1
        bus.compact(keep_since=30)
        bus.annotate(1, {"step": 77})
        assert reader.at(step=0).note == {"step": 77}
        with mmsb.open(tmp_path, mode="r") as another:
            assert another.at(step=0).note == {"step": 77}


def test_an_annotation_is_no_step(bus):
    for step in range(4):
        bus.commit({"w": 2.0**step}, step=step)
        bus.annotate(bus.latest, {"step": step})
    report = bus.check_replay(lambda s, e: ({"w": s["w"] * 2}, e), like={"w": 0.0}, steps=6)
    assert report
    assert report.steps == 3


@pytest.mark.parametrize(("note", "message"), [(3, "note="), ({"a": {1}}, "note holds")])
def test_what_is_no_annotation_is_refused(bus, note, message):
    bus.commit({"w": 1.0}, note="word")
    bus.commit({"w": 2.0})
    with pytest.raises(TypeError, match=message):
        bus.annotate(2, note)
    with pytest.raises(TypeError, match="has the note 'word'"):
        bus.annotate(1, {"a": 1})
    with pytest.raises(mmsb.VersionError):
        bus.annotate(9, {"a": 1})
    assert bus.version == 2
