import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.errors import CorruptionError, StructureError
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.query.commit import encode_json, read_commit
from tests.store._forged import append_forged
from tests.store._logs import Scribe

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_note_comes_back_with_its_commit(note):
    scribe = Scribe()
    scribe.head.commit(Draft(note=encode_json(note, "note")))
    assert read_commit(scribe.log, 1, lambda: 0).note == note


@given(JSON)
def test_extra_in_json_comes_back_with_its_commit(value):
    scribe = Scribe()
    extra = None if value is None else encode_json(value, "extra").encode()
    scribe.head.commit(Draft(extra=extra, extra_is_json=True))
    assert read_commit(scribe.log, 1, lambda: 0).extra == value


@pytest.mark.parametrize("extra", [b"", b"\0\xff", b"x" * 3_000_000])
def test_extra_in_bytes_comes_back_with_its_commit(extra):
    scribe = Scribe()
    scribe.create("w", (9,)).commit(extra=extra)
    scribe.commit()
    assert read_commit(scribe.log, 1, lambda: 0).extra == extra
    assert read_commit(scribe.log, 2, lambda: 0).extra is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ({"loss": np.float32(0.5)}, '{"loss":0.5}'),
        ({"loss": np.array(2)}, '{"loss":2}'),
        ([np.bool_(True), ml_dtypes.bfloat16(1.5)], "[true,1.5]"),
        ((1, "ä"), '[1,"\\u00e4"]'),
        ({"nan": float("nan")}, '{"nan":NaN}'),
    ],
)
def test_json_takes_numbers_of_numpy(value, text):
    assert encode_json(value, "note") == text


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ({"x": np.zeros(2)}, "a ndarray"),
        ({"x": object()}, "a object"),
        ({"x": b"bytes"}, "a bytes"),
        ([np.complex64(1)], "a complex"),
        ({1: 2}, "a dict with the key 1"),
        ([{"a": ({None: 1},)}], "a dict with the key None"),
        ({True: 1}, "a dict with the key True"),
    ],
)
def test_json_of_something_else_is_refused_by_name(value, held):
    with pytest.raises(TypeError, match=f"note holds {held}. Expected JSON"):
        encode_json(value, "note")


@pytest.mark.parametrize("text", ["{", "[" * 60_000, "[" * 129 + "]" * 129, "9" * 5000, "nul"])
def test_note_or_extra_that_is_no_json_is_damage(text):
    scribe = Scribe()
    with pytest.raises(StructureError, match="no JSON that can be read back"):
        scribe.head.commit(Draft(note=text))
    append_forged(scribe, note=text, next_id=1)
    scribe.head.commit(Draft(extra=text.encode(), extra_is_json=True))
    with pytest.raises(CorruptionError, match="the note of version 1 is not JSON"):
        read_commit(scribe.log, 1, lambda: 0)
    commit = read_commit(scribe.log, 2, lambda: 0)
    with pytest.raises(CorruptionError, match="the extra of version 2 is not JSON"):
        _ = commit.extra


def test_commit_says_what_the_log_says():
    scribe = Scribe()
    scribe.create("b", (2,), "uint8").create("a", (2,)).patch("a", {0: 1}).patch("b", {0: 1})
    landed = scribe.commit(step=-3, source="train", note='{"loss":0.5}', time_ns=77)
    commit = read_commit(scribe.log, 1, lambda: scribe.writer.durable_version)
    assert (commit.version, commit.step, commit.time_ns) == (1, -3, 77)
    assert (commit.source, commit.note, commit.changed) == ("train", {"loss": 0.5}, ("a", "b"))
    assert (commit.changed_bytes, commit.logged_bytes) == (2, landed.logged_bytes)
    assert not commit.durable
    scribe.writer.sync()
    assert commit.durable


def test_commits_are_equal_by_what_they_say_and_hash_alike():
    scribe = Scribe()
    scribe.commit(note=json.dumps({"a": 1}), time_ns=5)
    scribe.commit(time_ns=6)
    one, again, other = (read_commit(scribe.log, v, lambda: 0) for v in (1, 1, 2))
    assert one == again
    assert hash(one) == hash(again)
    assert one != other
    assert one != "a commit"
    assert len({one, again, other}) == 2
