import numpy as np
import pytest

from mmsb_jax._base import memory_limit
from mmsb_jax._base.errors import DeviceMemoryError
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.state.state import StoredState, Table, word_count
from tests.store._logs import PAGE_BYTES, Scribe, check_state


def info(array_id: int, name: str, shape: tuple[int, ...] = (2,)) -> ArrayInfo:
    return ArrayInfo(array_id, name, "jax", "float32", shape, True)


def create(array_id: int, name: str, shape: tuple[int, ...] = (2,)) -> Op:
    return Op(OpCode.CREATE, info(array_id, name, shape))


def table() -> Table:
    made = Table(b"i" * 16, next_id=3)
    made.arrays = {1: info(1, "a"), 2: info(2, "b")}
    made.ids = {"a": 1, "b": 2}
    return made


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([create(1, "c")], "CREATE of array 1 'c' does not fit"),
        ([create(3, "a")], "two arrays are named 'a'"),
        ([create(3, "c"), create(4, "c")], "two arrays are named 'c'"),
        (
            [Op(OpCode.DELETE, info(1, "a")), create(1, "a")],
            "the id of array 1 'a' was used before",
        ),
        ([create(3, "c"), Op(OpCode.DELETE, info(3, "c")), create(3, "c")], "was used before"),
        ([create(0, "c")], "was used before"),
        ([Op(OpCode.UPDATE, info(1, "c"))], "array 1 is named 'a', not 'c'"),
        ([Op(OpCode.DELETE, info(1, "b"))], "array 1 is named 'a', not 'b'"),
        ([Op(OpCode.DELETE, info(9, "x"))], "DELETE of array 9 'x' does not fit"),
        ([Op(OpCode.UPDATE, info(1, "a", (2**43,)))], "array 'a' claims"),
    ],
    ids=str,
)
def test_operations_that_do_not_fit_are_refused(ops, message):
    with pytest.raises(BadFrameError, match=message):
        table().apply_ops(ops)


def test_operations_free_a_name_and_never_an_id():
    changed = table()
    changed.lanes, changed.bases = {1: (5, 6)}, {1: 7}
    changed.apply_ops([Op(OpCode.DELETE, info(1, "a")), create(3, "a", (9,))])
    assert changed.ids == {"b": 2, "a": 3}
    assert changed.arrays == {2: info(2, "b"), 3: info(3, "a", (9,))}
    assert changed.lanes == changed.bases == {}


def state_of(scribe: Scribe) -> StoredState:
    return scribe.log.state(scribe.log.version, page_bytes=PAGE_BYTES)


@pytest.fixture
def scribe() -> Scribe:
    scribe = Scribe()
    scribe.create("w", (50,)).create("b", (3,), "uint8")
    scribe.write("w", np.arange(50, dtype="f4")).commit()
    scribe.patch("b", {1: 1}).commit()
    return scribe


def test_sketch_is_tried_without_a_change_of_the_state(scribe):
    state = state_of(scribe)
    ops = [
        Op(OpCode.UPDATE, info(1, "w", (5,))),
        Op(OpCode.UPDATE, info(1, "w", (90,))),
        create(3, "new", (40,)),
        Op(OpCode.DELETE, ArrayInfo(2, "b", "jax", "uint8", (3,), True)),
        create(4, "b"),
    ]
    part = state.sketch(ops)
    part.operate(ops)
    check_state(state, scribe.history[-1])
    assert part.bytes_of(1).tobytes() == state.bytes_of(1).tobytes()[:20] + bytes(340)
    assert part.page_versions[1].tolist() == [1, 0, 0]
    state.adopt(part, ops)
    assert state.table.ids == {"w": 1, "new": 3, "b": 4}
    assert sorted(state.words) == sorted(state.page_versions) == [1, 3, 4]
    assert state.words[1] is part.words[1]


def test_sketch_shares_what_operations_do_not_make_anew(scribe):
    state = state_of(scribe)
    part = state.sketch([create(9, "b")])
    assert part.words == {2: state.words[2]}
    assert part.words[2] is state.words[2]


@pytest.mark.parametrize("place", [0, 7, 199])
def test_digest_from_scratch_finds_any_byte(scribe, place):
    state = state_of(scribe)
    state.check_digest()
    state.bytes_of(1)[place] ^= 1
    with pytest.raises(BadFrameError, match="the bytes of 'w' do not have the digest recorded"):
        state.check_digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.values.update(c="s:x"),
        lambda table: table.arrays.update({2: ArrayInfo(2, "b", "numpy", "uint8", (3,), True)}),
        lambda table: table.arrays.pop(2),
    ],
)
def test_digest_from_scratch_finds_a_change_of_the_table(scribe, change):
    state = state_of(scribe)
    change(state.table)
    with pytest.raises(BadFrameError, match="state at version 2 does not have the digest"):
        state.check_digest()


def test_room_is_counted_as_arrays_come_and_go(monkeypatch):
    monkeypatch.setattr(memory_limit, "_machine_bytes", lambda: 1000)
    state = StoredState(b"i" * 16)
    state.operate([create(1, "a", (200,))])
    with pytest.raises(
        DeviceMemoryError, match="1,200 bytes are needed, and this machine has 1,000"
    ):
        StoredState.operate(state, [create(2, "b", (100,))])
    state.table = Table(b"i" * 16, arrays={1: info(1, "a", (200,))}, ids={"a": 1}, next_id=3)
    state.operate([Op(OpCode.DELETE, info(1, "a", (200,))), create(3, "b", (250,))])
    assert state.words[3].size == 250


def test_room_that_the_system_does_not_give_is_an_error_of_the_library(monkeypatch):
    def refuse(*_args):
        raise MemoryError

    monkeypatch.setattr(np, "zeros", refuse)
    with pytest.raises(DeviceMemoryError, match="array 'a': 8 bytes are needed"):
        StoredState(b"i" * 16).operate([create(1, "a")])


@pytest.mark.parametrize(("nbytes", "words"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_words_hold_the_bytes(nbytes, words):
    assert word_count(nbytes) == words
