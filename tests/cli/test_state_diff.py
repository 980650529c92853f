"""The difference of two states, against NumPy."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._base.dtypes import dtype_name
from mmsb_jax._display.text import printable
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.query import diff as _diff
from mmsb_jax._store.query.diff import StateDiff, diff_states, diff_versions
from mmsb_jax._store.state.state import StoredState, word_count

DTYPES = [
    np.dtype(dtype)
    for dtype in (
        "bool", "int8", "int16", "int32", "float16", "float32", "float64", "complex64",
        "complex128", ">f4", "S3", "S5", "U2", "M8[ns]", ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu, ml_dtypes.int4,
        ml_dtypes.float4_e2m1fn,
    )
]  # fmt: skip
FLOATS = {
    dtype
    for dtype in DTYPES
    if dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float8", "float4"))
}


def state_of(arrays: dict[str, np.ndarray], version: int = 1, **values: str) -> StoredState:
    """A state that holds these arrays."""
    state = StoredState(bytes(16))
    state.table.version = version
    state.table.values = values
    for array_id, (name, array) in enumerate(arrays.items(), 1):
        info = ArrayInfo(array_id, name, "numpy", dtype_name(array.dtype), array.shape, True)
        state.table.arrays[array_id] = info
        state.table.ids[name] = array_id
        words = np.zeros(word_count(array.nbytes), np.uint32)
        words.view(np.uint8)[: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        state.words[array_id] = words
    return state


def diff(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> StateDiff:
    return diff_states(state_of(old, 1), state_of(new, 2))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of one dtype and shape that differ in some bytes, often in none."""
    dtype = draw(st.sampled_from(DTYPES))
    elements = draw(st.integers(0, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    raw = np.random.default_rng(seed).integers(0, 256, elements * dtype.itemsize, np.uint8)
    other = raw.copy()
    if raw.size:
        places = draw(st.lists(st.integers(0, raw.size - 1), max_size=10))
        other[places] ^= draw(st.integers(1, 255))
    return raw.view(dtype), other.view(dtype)


def non_finite(array: np.ndarray) -> int | None:
    if array.dtype not in FLOATS:
        return None
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    return sum(not np.isfinite(value) for value in wide.tolist())


@settings(deadline=None)
@given(pairs(), st.sampled_from([16, 64, 1 << 18]))
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_diff_states_counts_as_numpy_does(pair, tile_bytes):
    old, new = pair
    before = old.view(np.uint8).reshape(-1, old.itemsize)
    after = new.view(np.uint8).reshape(-1, new.itemsize)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_diff, "_TILE_BYTES", tile_bytes)
        found = diff({"x": old}, {"x": new})
    assert bool(found) == (before.tobytes() != after.tobytes())
    for entry in found.arrays:
        assert entry.changed_bytes == np.count_nonzero(before != after)
        assert entry.changed_elements == np.count_nonzero((before != after).any(axis=1))
        assert entry.elements == old.size
        assert entry.non_finite_old == non_finite(old)
        assert entry.non_finite_new == non_finite(new)


def test_diff_states_of_equal_nan_bits_is_empty_and_of_other_bits_is_not():
    quiet, payload = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    same = diff({"x": np.array([quiet])}, {"x": np.array([quiet])})
    other = diff({"x": np.array([quiet])}, {"x": np.array([payload])})
    assert not same
    assert other.arrays[0].changed_bytes == 1


def test_diff_states_of_zeros_with_another_sign_differ():
    found = diff({"x": np.array([0.0])}, {"x": np.array([-0.0])})
    assert (found.arrays[0].changed_bytes, found.arrays[0].changed_elements) == (1, 1)


def test_diff_states_of_another_shape_counts_what_is_beyond():
    found = diff({"x": np.zeros((2, 2), np.int16)}, {"x": np.ones((2, 3), np.int16)})
    entry = found.arrays[0]
    assert (entry.changed_bytes, entry.changed_elements) == (4 + 4, 6)
    assert (entry.elements, entry.nbytes) == (6, 12)


def test_diff_states_of_a_reshape_alone_is_a_difference_without_bytes():
    found = diff({"x": np.arange(6)}, {"x": np.arange(6).reshape(2, 3)})
    assert found
    assert (found.arrays[0].changed_bytes, found.arrays[0].changed_elements) == (0, 0)
    assert "int64[6] → int64[2,3]" in str(found)


def test_diff_states_of_another_dtype_counts_every_element():
    found = diff({"x": np.zeros(4, np.int32)}, {"x": np.zeros(4, np.float32)})
    entry = found.arrays[0]
    assert (entry.changed_bytes, entry.changed_elements) == (0, 4)
    assert (entry.non_finite_old, entry.non_finite_new) == (None, 0)


def test_diff_states_lists_created_and_deleted_arrays_whole():
    found = diff({"a": np.zeros(3), "c": np.ones(1)}, {"b": np.array([np.inf]), "c": np.ones(1)})
    a, b = found.arrays
    assert (a.name, a.change, a.changed_bytes, a.non_finite_new) == ("a", "deleted", 24, None)
    assert (b.name, b.change, b.changed_elements, b.non_finite_new) == ("b", "created", 1, 1)
    assert found.arrays_in_all == 3


def test_diff_states_compares_constants():
    old = state_of({}, 1, kept="n:", changed="i:99", gone="s:x")
    new = state_of({}, 2, kept="n:", changed="i:100", made="f:jax.nn.relu")
    found = diff_states(old, new)
    assert list(map(str, found.values)) == [
        "changed: 99 → 100",
        "gone: 'x' → –",
        "made: – → jax.nn.relu",
    ]
    assert bool(found)


def test_diff_states_of_wanted_names_passes_over_the_others():
    old, new = state_of({"a": np.zeros(2), "b": np.zeros(2)}), state_of({}, 2, b="n:")
    found = diff_states(old, new, lambda name: name == "a")
    assert [entry.name for entry in found.arrays] == ["a"]
    assert found.values == ()
    assert found.arrays_in_all == 1


def test_diff_versions_of_any_two_versions_is_that_of_their_states(recorder):
    rng = np.random.default_rng(5)
    recorder.commit({"x": rng.random(40), "y": rng.random(8), "z": np.ones(2)})
    recorder.commit({"x": rng.random(40)})
    recorder.snapshot()
    recorder.commit({"y": None, "z": np.ones(3)})
    recorder.commit({"y": rng.random(9)})
    for old in range(5):
        for new in range(5):
            whole = diff_states(recorder.log.state(old), recorder.log.state(new))
            assert diff_versions(recorder.log, old, new) == whole


def test_diff_versions_reads_only_arrays_that_were_touched(recorder, monkeypatch):
    recorder.commit({"x": np.zeros(40), "y": np.zeros(8)})
    recorder.commit({"y": np.ones(8)})
    held = []
    monkeypatch.setattr(_diff, "diff_states", lambda old, new, _: held.append((old, new)))
    diff_versions(recorder.log, 1, 2)
    ids = recorder.head.state.table.ids
    assert [set(state.words) for state in held[0]] == [{ids["y"]}, {ids["y"]}]


def test_state_diff_as_text_is_a_table():
    old = {"params/w": np.zeros(1500, np.float32), "gone": np.zeros(2, np.int8)}
    new = {"params/w": np.full(1500, np.nan, np.float32)}
    assert str(diff(old, new)) == "\n".join(
        [
            "version 1 → 2: 2 of 2 arrays differ, 3,002 bytes",
            "array     change   type           bytes changed   elements changed  non-finite",
            "gone      deleted  int8[2]        2 of 2          2 of 2            –",
            "params/w  changed  float32[1500]  3,000 of 6,000  1,500 of 1,500    0 → 1,500",
        ]
    )


def test_state_diff_of_nothing_is_one_line_and_false():
    found = diff({"x": np.ones(2)}, {"x": np.ones(2)})
    assert not found
    assert str(found) == "version 1 → 2: 0 of 1 arrays differ, 0 bytes"


def test_state_diff_in_a_notebook_escapes_names():
    old = state_of({"<script>\x1b": np.zeros(2)}, 1, **{"<b>": "s:<i>"})
    page = diff_states(old, state_of({}, 2))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;\\x1b" in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert page.count("<tr>") == 2


def test_state_diff_of_equal_states_has_no_table_in_a_notebook():
    assert "<table>" not in diff({"x": np.ones(2)}, {"x": np.ones(2)})._repr_html_()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("params/w", "params/w"),
        ("größe 重み", "größe 重み"),
        ("\x1b[31m\x07\n\t", r"\x1b[31m\x07\n\t"),
        ("\x9b\u202e\u2028\ud800", r"\x9b\u202e\u2028\ud800"),
    ],
)
def test_printable_escapes_what_a_terminal_may_act_on(text, shown):
    assert printable(text) == shown
