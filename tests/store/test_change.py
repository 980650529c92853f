from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax._base.words import host_words
from mmsb_jax._store.commit import lots as _lots
from mmsb_jax._store.commit.compare import Changes, Patched, compare, patched
from mmsb_jax._store.commit.encode import Recorded, record_all
from mmsb_jax._store.commit.lots import Compared
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.encoding.decode import decode_into
from mmsb_jax._store.encoding.digest import digest_words
from mmsb_jax._store.format.chunk import pack_chunks
from mmsb_jax._store.format.data import chunk_data
from mmsb_jax._store.format.record import FULL, ArrayInfo, CommitRecord
from tests.store._logs import Here, threads

PAGE_BYTES = 64
DTYPES = {"uint8": 1, "float16": 2, "float32": 4, "float64": 8, "|S3": 3}


class Due(Tally):
    """A tally in which arrays have deltas behind them: of so many bytes."""

    def __init__(self, delta_bytes: dict[int, int]) -> None:
        super().__init__()
        self._delta_bytes = delta_bytes


class Edit(NamedTuple):
    """An array, and what becomes of it."""

    info: ArrayInfo
    old: np.ndarray
    new: np.ndarray

    @property
    def compared(self) -> Compared:
        return Compared(self.info, host_words(self.old.copy()), host_words(self.new))


def edit_of(old: np.ndarray, new: np.ndarray, dtype: str, array_id: int = 1) -> Edit:
    """An array with the bytes ``old`` (uint8[n]) that becomes ``new``."""
    info = ArrayInfo(array_id, f"x{array_id}", "jax", dtype, (old.size // DTYPES[dtype],), True)
    return Edit(info, old, new)


class Said(NamedTuple):
    """What the record of an array says."""

    flags: int
    lanes: tuple[int, int]
    changed_bytes: int
    pages: list[int]
    after: bytes


def record(
    edits: list[Edit],
    changes: Changes,
    fresh: set[int],
    delta_bytes: dict[int, int],
    executor: Any = Here,
) -> list[Recorded]:
    """``changes`` as records."""
    lanes = {edit.info.id: digest_words(host_words(edit.old)) for edit in edits}
    recorded, waiting = record_all(
        changes, lanes.__getitem__, fresh.__contains__, Due(delta_bytes), PAGE_BYTES, executor
    )
    finish(waiting)
    return recorded


def said_by(edits: list[Edit], recorded: list[Recorded]) -> dict[int, Said]:
    """What records say, by the id of the array; each is decoded, and put into a head."""
    known, said = {edit.info.id: edit for edit in edits}, {}
    for part in recorded:
        rows, chunks = part.rows({}), pack_chunks(part.chunks)
        of_part = CommitRecord(b"", b"", 0, 1, 0, records=rows, chunks=chunks)
        data = b"".join(bytes(piece) for chunk in part.chunks for piece in chunk.pieces())
        parts, stop = chunk_data(of_part, [memoryview(data)]), 0
        pages = {info.id: np.zeros(-(-info.nbytes // PAGE_BYTES), np.uint64) for info in part.infos}
        part.put(pages, PAGE_BYTES // 4, 7)
        for row in rows:
            array_id, flags = int(row["id"]), int(row["flags"])
            old = known[array_id].old
            after = np.full(old.size, 77, np.uint8) if flags == FULL else old.copy()
            start, stop = stop, stop + int(row["chunks"])
            for chunk, view in zip(chunks[start:stop], parts[start:stop], strict=True):
                decode_into(after, chunk, view)
            said[array_id] = Said(
                flags,
                (int(row["lane0"]), int(row["lane1"])),
                int(row["changed"]),
                np.flatnonzero(pages[array_id]).tolist(),
                after.tobytes(),
            )
    return said


def check_said(edit: Edit, said: Said) -> None:
    """What a record says is what has become of the array."""
    differ = np.flatnonzero(edit.old != edit.new)
    assert said.after == edit.new.tobytes()
    assert said.lanes == digest_words(host_words(edit.new))
    assert said.changed_bytes == differ.size
    assert said.pages == sorted({int(i) // PAGE_BYTES for i in differ})


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
    edit = edit_of(old, new, dtype)
    array = edit.compared
    if is_patch:
        words = np.unique(np.array([p % size // 4 for p in places if size], np.int64))
        changes = patched([Patched(array._replace(new=None), words, host_words(new)[words])])
    else:
        changes = compare([array], PAGE_BYTES, Here)
    recorded = record([edit], changes, {1} if is_fresh else set(), {1: delta_bytes})
    np.testing.assert_array_equal(array.old, host_words(old))  # nothing is altered until `put`
    said = said_by([edit], recorded)
    assert bool(said) == bool((old != new).any())
    if said:
        check_said(edit, said[1])
        assert said[1].flags == FULL or not delta_bytes
        np.testing.assert_array_equal(array.old, host_words(new))


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
    lot_words=st.sampled_from([1, 30, 200, _lots.LOT_WORDS]),
    seed=st.integers(0, 99),
)
def test_changes_recorded_together_say_what_becomes_of_each(arrays, lot_words, seed):
    rng = np.random.default_rng(seed)
    edits, fresh, delta_bytes = [], set(), {}
    for array_id, (dtype, count, how, is_fresh, is_due) in enumerate(arrays, 1):
        size = count * DTYPES[dtype]
        old = np.zeros(size, np.uint8) if is_fresh else rng.integers(0, 256, size, np.uint8)
        edits.append(edit_of(old, edited(old, how, rng), dtype, array_id))
        fresh |= {array_id} if is_fresh else set()
        delta_bytes[array_id] = 10**9 * is_due
    with pytest.MonkeyPatch.context() as patched_lots:
        patched_lots.setattr(_lots, "LOT_WORDS", lot_words)
        changes = compare([edit.compared for edit in edits], PAGE_BYTES, Here)
        said = said_by(edits, record(edits, changes, fresh, delta_bytes))
    assert said.keys() == {e.info.id for e in edits if (e.old != e.new).any()}
    for edit in edits:
        if edit.info.id in said:
            check_said(edit, said[edit.info.id])
            stands_alone = edit.info.id in fresh or delta_bytes[edit.info.id]
            is_dense = said[edit.info.id].flags == FULL
            assert is_dense or not delta_bytes[edit.info.id]
            if stands_alone and not is_dense:  # a few elements need nothing to build on
                assert 4 * said[edit.info.id].changed_bytes < 2 * edit.info.nbytes


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 1.0])
def test_change_of_a_large_array_in_threads_equals_that_of_one(share):
    rng = np.random.default_rng(0)
    old = rng.integers(0, 256, 9_000_001, np.uint8)
    new = old.copy()
    new[rng.random(old.size) < share] ^= 1
    edit, results = edit_of(old, new, "uint8"), []
    for executor in (Here, threads):
        changes = compare([edit.compared], PAGE_BYTES, executor)
        spans = [span[:3] for change in changes.large for span in change.spans]
        recorded = record([edit], changes, set(), {}, executor)
        data = [bytes(p) for part in recorded for c in part.chunks for p in c.pieces()]
        results.append((spans, data, said_by([edit], recorded)))
    assert results[0] == results[1]
    for said in results[0][2].values():
        check_said(edit, said)


def test_negative_zero_and_zero_differ_and_equal_nans_do_not():
    old = np.array([0.0, np.nan, 1.0] + [5.0] * 20, "f4")
    new = np.array([-0.0, np.nan, 1.0] + [5.0] * 20, "f4")
    edit = edit_of(old.view(np.uint8), new.view(np.uint8), "float32")
    (lot,) = compare([edit.compared], PAGE_BYTES, Here).lots
    assert lot.picked.words.tolist() == [0]


def test_what_is_a_group_does_not_depend_on_what_was_compared_beside_it():
    rng = np.random.default_rng(0)
    edits = []
    for array_id in range(1, 9):
        old = rng.integers(0, 256, 2000, np.uint8)
        new = rng.integers(0, 256, 2000, np.uint8) if array_id % 2 else old.copy()
        edits.append(edit_of(old, new, "float32", array_id))
    made = []
    for part in (edits, [edit for edit in edits if edit.info.id % 2]):
        changes = compare([edit.compared for edit in part], PAGE_BYTES, Here)
        recorded = record(part, changes, set(), {})
        made.append([pack_chunks(lot.chunks).tobytes() for lot in recorded])
    assert made[0] == made[1]
    assert len(made[0]) == 1


def test_small_arrays_of_which_more_elements_than_words_changed_keep_their_places():
    rng = np.random.default_rng(0)
    edits = [
        edit_of(np.zeros(2000, np.uint8), rng.integers(0, 9, 2000, np.uint8), "uint8", array_id)
        for array_id in range(1, 200)
    ]
    changes = compare([edit.compared for edit in edits], PAGE_BYTES, Here)
    said = said_by(edits, record(edits, changes, set(), {}))
    assert len(said) == len(edits)
    for edit in edits:
        check_said(edit, said[edit.info.id])


def test_lot_that_takes_in_more_than_was_compared_together_has_all_of_it(monkeypatch):
    monkeypatch.setattr(_lots, "LOT_WORDS", 100)
    rng = np.random.default_rng(0)
    edits = []
    for array_id, (words, changes) in enumerate(
        [(40, True), (40, True), (30, False), (10, True)], 1
    ):
        old = rng.integers(0, 256, 4 * words, np.uint8)
        new = rng.integers(0, 256, 4 * words, np.uint8) if changes else old
        edits.append(edit_of(old, new, "float32", array_id))
    changes = compare([edit.compared for edit in edits], PAGE_BYTES, Here)
    assert [len(lot.arrays) for lot in changes.dense] == [3]
    said = said_by(edits, record(edits, changes, set(), {}))
    for array_id in (1, 2, 4):
        check_said(edits[array_id - 1], said[array_id])
