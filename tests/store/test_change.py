from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.words import host_words
from mmsb_jax._store.commit import compare as _change
from mmsb_jax._store.commit.compare import ArrayChange, compare, patch
from mmsb_jax._store.commit.encode import record_all
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.decode import decode_into
from mmsb_jax._store.encoding.digest import digest_words
from mmsb_jax._store.format.chunk import pack_chunks
from mmsb_jax._store.format.record import FULL, ArrayInfo
from tests.store._logs import Here, threads

PAGE_BYTES = 64
DTYPES = {"uint8": 1, "float16": 2, "float32": 4, "float64": 8, "|S3": 3}


class Due(Tally):
    """A tally in which arrays have deltas behind them: of so many bytes."""

    def __init__(self, delta_bytes: dict[int, int]) -> None:
        super().__init__()
        self._delta_bytes = delta_bytes


def change_of(old: np.ndarray, dtype: str, fresh: bool = False) -> ArrayChange:
    """A change of an array whose bytes are ``old`` (uint8[n])."""
    info = ArrayInfo(1, "w", "jax", dtype, (old.size // DTYPES[dtype],), True)
    return ArrayChange(info, host_words(old.copy()), None, fresh)


@given(st.binary(max_size=40))
def test_words_of_bytes_are_filled_with_zeros(raw):
    words = host_words(np.frombuffer(raw, np.uint8).copy())
    assert words.tobytes() == raw.ljust(-(-len(raw) // 4) * 4, b"\0")


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    count=st.integers(0, 120) | st.sampled_from([1023, 1025, 5000, 20_000]),
    places=st.lists(st.integers(0, 2**20), max_size=30),
    seed=st.integers(0, 99),
    is_fresh=st.booleans(),
    delta_bytes=st.sampled_from([0, 10**9]),
    is_patch=st.booleans(),
)
def test_change_found_encoded_and_put_is_the_new_array(
    dtype, count, places, seed, is_fresh, delta_bytes, is_patch
):
    size = count * DTYPES[dtype]
    rng = np.random.default_rng(seed)
    old = np.zeros(size, np.uint8) if is_fresh else rng.integers(0, 256, size, np.uint8)
    new = old.copy()
    for place in places if size else []:
        new[place % size] ^= 1 + place % 255
    change = change_of(old, dtype, is_fresh)
    if is_patch:
        words = np.unique(np.array([p % size // 4 for p in places if size], np.int64))
        found = [change] if patch(change, words, host_words(new)[words]) else []
    else:
        change.new = host_words(new)
        found = compare([change], PAGE_BYTES, Here)
    differ = old != new
    assert bool(found) == bool(differ.any())
    if not found:
        return
    before = digest_words(host_words(old))
    finish(record_all(found, lambda _: before, Due({1: delta_bytes}), PAGE_BYTES, Here))
    chunks, flags = change.chunks, change.flags
    assert change.changed_bytes == differ.sum()
    assert change.lanes == digest_words(host_words(new))
    assert change.pages.tolist() == sorted({int(i) // PAGE_BYTES for i in np.flatnonzero(differ)})
    assert flags == FULL or not delta_bytes
    target = rng.integers(0, 256, size, np.uint8) if flags == FULL else old.copy()
    for row, chunk in zip(pack_chunks(chunks), chunks, strict=True):
        decode_into(target, row, memoryview(chunk.data).cast("B"))
    np.testing.assert_array_equal(target, new)
    np.testing.assert_array_equal(change.old, host_words(old))  # nothing is altered until `put`
    change.put()
    np.testing.assert_array_equal(change.old, host_words(new))


def finish(waiting: list[Future[None]]) -> None:
    """Wait for what threads do to changes."""
    for future in waiting:
        future.result()


def edited(old: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """The bytes of an array after an edit."""
    if how == "all":
        return rng.integers(0, 256, old.size, np.uint8)
    new = old.copy()
    if how == "few" and old.size:
        new[rng.integers(0, old.size, 1 + old.size // 50)] ^= rng.integers(1, 256, dtype=np.uint8)
    elif how == "most":
        new[::2] += 1
    elif how == "zeros":
        new[...] = 0
    return new


def recorded(changes: list[ArrayChange], delta_bytes: dict[int, int]) -> dict[int, Any]:
    """What the records of ``changes`` say, by the id of the array."""
    before = {change.info.id: digest_words(change.old) for change in changes}
    found = compare(changes, PAGE_BYTES, Here)
    finish(record_all(found, before.__getitem__, Due(delta_bytes), PAGE_BYTES, Here))
    return {
        c.info.id: (
            [(k.offset, k.raw_bytes, k.items, k.coding, k.unit, bytes(k.data)) for k in c.chunks],
            (c.flags, c.lanes, c.changed_bytes, np.asarray(c.pages).tolist()),
            c.words_after().tobytes(),
        )
        for c in found
    }


@given(
    arrays=st.lists(
        st.tuples(
            st.sampled_from(sorted(DTYPES)),
            st.sampled_from([0, 1, 3, 16, 33, 100, 400]),
            st.sampled_from(["nothing", "few", "most", "all", "zeros"]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=12,
    ),
    batch_words=st.sampled_from([1, 30, 200, _change._BATCH_WORDS]),
    seed=st.integers(0, 99),
)
def test_changes_recorded_together_say_what_each_says_alone(arrays, batch_words, seed):
    rng = np.random.default_rng(seed)
    edits, delta_bytes = [], {}
    for array_id, (dtype, count, how, is_fresh, is_due) in enumerate(arrays, 1):
        size = count * DTYPES[dtype]
        old = np.zeros(size, np.uint8) if is_fresh else rng.integers(0, 256, size, np.uint8)
        edits.append((array_id, dtype, old, edited(old, how, rng), is_fresh))
        delta_bytes[array_id] = 10**9 * is_due

    def made(
        array_id: int, dtype: str, old: np.ndarray, new: np.ndarray, fresh: bool
    ) -> ArrayChange:
        info = ArrayInfo(array_id, f"x{array_id}", "jax", dtype, (old.size // DTYPES[dtype],), True)
        return ArrayChange(info, host_words(old), host_words(new), fresh)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_change, "_BATCH_WORDS", batch_words)
        together = recorded([made(*edit) for edit in edits], delta_bytes)
    alone = {}
    for edit in edits:
        alone |= recorded([made(*edit)], delta_bytes)
    assert together == alone
    assert together.keys() == {i for i, _, old, new, _ in edits if (old != new).any()}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 1.0])
def test_change_of_a_large_array_in_threads_equals_that_of_one(share):
    rng = np.random.default_rng(0)
    old = rng.integers(0, 256, 9_000_001, np.uint8)
    new = old.copy()
    new[rng.random(old.size) < share] ^= 1
    results = []
    for executor in (Here, threads):
        change = change_of(old, "uint8")
        change.new = host_words(new)
        found = compare([change], 4096, executor)
        before = digest_words(host_words(old))
        finish(record_all(found, lambda _, lanes=before: lanes, Tally(), 4096, executor))
        chunks = [chunk for one in found for chunk in one.chunks]
        pages = [] if change.pages is None else change.pages.tolist()
        data = [bytes(chunk.data) for chunk in chunks]
        spans = [span[:3] for span in change.spans]
        results.append((spans, change.changed_bytes, change.lanes, pages, data))
    assert results[0] == results[1]
    assert results[0][1] == (old != new).sum()


def test_negative_zero_and_zero_differ_and_equal_nans_do_not():
    old = np.array([0.0, np.nan, 1.0], "f4")
    new = np.array([-0.0, np.nan, 1.0], "f4")
    change = change_of(old.view(np.uint8), "float32")
    change.new = host_words(new.view(np.uint8))
    assert compare([change], PAGE_BYTES, Here) == [change]
    assert change.differing == 1
