"""Commits that find on the device what changed: the same log, and little that moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.device import (
    byte_shadow,
    device_shadow,
    digest_shadow,
    programs,
    transfer,
)
from mmsb_jax._bus.device.pieces import merged
from mmsb_jax._bus.write import tree_writer
from mmsb_jax.kernels import xla
from tests.bus._records import records_of
from tests.bus._script import run_script
from tests.bus._shadowed import run_program
from tests.core._compare import assert_same_tree

LARGE = (512, 128)
"""256 KB of float32."""


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_give_the_same_log(tmp_path, monkeypatch, seed):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    without, by_bytes, by_digest = (
        run_program(tmp_path / str(shadow), seed, shadow) for shadow in (None, "bytes", "digest")
    )
    assert records_of(tmp_path / "None") == records_of(tmp_path / "bytes")
    assert records_of(tmp_path / "None") == records_of(tmp_path / "digest")
    assert without.device_bytes == 0
    assert by_bytes.device_bytes > 10 * by_digest.device_bytes > 0
    assert by_bytes.moved_bytes < by_digest.moved_bytes < without.moved_bytes


@pytest.mark.parametrize("way", range(5))
def test_random_program_on_eight_devices_gives_the_same_log(way):
    """Arrays split in one of five ways; in a process of its own, which has the devices."""
    flags = "--xla_force_host_platform_device_count=8"
    code = "import sys; from tests.bus import _shadowed; _shadowed.main(int(sys.argv[1]))"
    assert run_script(code, way, XLA_FLAGS=flags) == "done"


def land(bus, tree, wait):
    """Commit a tree, and return once it has landed, or raise what made it fail."""
    handle = bus.commit(tree, wait=wait)
    return handle if wait else handle.result()


def moved(bus, tree, wait=True):
    """Bytes that came to the host for a commit."""
    before = bus.stats().moved_bytes
    land(bus, tree, wait)
    return bus.stats().moved_bytes - before


@pytest.mark.parametrize("wait", [True, False])
def test_what_did_not_change_does_not_move(wait):
    tree = {"w": jnp.zeros(LARGE), "v": jnp.ones(LARGE)}
    with mmsb.open(shadow="bytes") as bus:
        assert moved(bus, tree) == 2 * 4 * 512 * 128
        assert moved(bus, {name: leaf + 0 for name, leaf in tree.items()}, wait) == 2 * 4
        assert bus.stats().device_bytes == 2 * 4 * 512 * 128 * (1 + 1 / 32)


@pytest.mark.parametrize("wait", [True, False])
def test_what_changed_moves_by_the_word(wait):
    with mmsb.open(shadow="bytes") as bus:
        bus.commit({"w": jnp.zeros(LARGE)})
        changed = jnp.zeros(LARGE).at[3, :100].set(1)
        assert moved(bus, {"w": changed}, wait) == 4 + 256 * 8
        np.testing.assert_array_equal(bus.tree()["w"], changed)
        assert moved(bus, {"w": changed.at[:200].set(2)}, wait) == 4 + 4 * 512 * 128
        np.testing.assert_array_equal(bus.tree()["w"][:200], 2)


def test_array_that_is_the_very_one_is_not_looked_at():
    frozen, tree = jnp.ones(LARGE), {"w": jnp.zeros(LARGE)}
    with mmsb.open(shadow="bytes") as bus:
        bus.commit(tree | {"frozen": frozen})
        scanned = []
        original = byte_shadow.ByteShadow.find

        def find(self, arrays):
            scanned.append([self.pieces[k].leaf for k in arrays])
            return original(self, arrays)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(byte_shadow.ByteShadow, "find", find)
            bus.commit({"w": jnp.zeros(LARGE) + 1, "frozen": frozen})
        assert scanned == [[1]]
        np.testing.assert_array_equal(bus.tree()["w"], 1)


@pytest.mark.parametrize("wait", [True, False])
def test_arrays_may_be_donated_once_commit_returns(wait):
    step = jax.jit(lambda w: w.at[0].add(1), donate_argnums=0)
    with mmsb.open(shadow="bytes") as bus:
        w, handles = jnp.zeros(LARGE), []
        for _ in range(20):
            handles.append(bus.commit({"w": w}, wait=wait))
            w = step(w)
        bus.sync()
        for number in range(20):
            np.testing.assert_array_equal(bus.checkout(version=number + 1)["w"][0], number)


@pytest.mark.parametrize("kind", ["pinned_host", "unpinned_host"])
def test_array_in_host_memory_is_left_out_and_keeps_its_kind(kind):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=kind)
    with mmsb.open(shadow="bytes") as bus:
        for number in range(3):
            far = jax.device_put(jnp.full(LARGE, number + 0.5), place)
            bus.commit({"far": far, "near": jnp.ones(LARGE) * number})
            found = bus.checkout(like={"far": far, "near": jnp.ones(LARGE)})
            assert found["far"].sharding.memory_kind == kind
            np.testing.assert_array_equal(found["far"], number + 0.5)
            np.testing.assert_array_equal(found["near"], number)
        assert bus.stats().device_bytes == 4 * 512 * 128 * (1 + 1 / 32)


def test_what_others_wrote_is_seen():
    """The shadow is not what the log has then: a commit of what it knows must undo the write."""
    with mmsb.open(shadow="bytes") as bus:
        w = jnp.zeros(LARGE)
        bus.commit({"w": w})
        bus.write("w", np.ones(LARGE, np.float32))
        bus.commit({"w": w + 0})
        np.testing.assert_array_equal(bus.tree()["w"], 0)
        bus.apply(mmsb.diff(bus.layout.pack({"w": w}), bus.layout.pack({"w": w.at[5, 5].set(3)})))
        bus.commit({"w": w + 0})
        np.testing.assert_array_equal(bus.tree()["w"], 0)


@pytest.mark.parametrize("wait", [True, False])
def test_commit_that_failed_leaves_no_shadow_that_is_ahead(wait, monkeypatch):
    with mmsb.open(shadow="bytes") as bus:
        bus.commit({"w": jnp.zeros(LARGE)})
        append = bus._session.engine.writer.append

        def fail(commit):
            raise mmsb.LocationError(28, "the disk is full")

        monkeypatch.setattr(bus._session.engine.writer, "append", fail)
        with pytest.raises(mmsb.LocationError):
            land(bus, {"w": jnp.ones(LARGE)}, wait)
        monkeypatch.setattr(bus._session.engine.writer, "append", append)
        if not wait:
            with pytest.raises(mmsb.LocationError):
                bus.commit({"w": jnp.ones(LARGE)})
        bus.commit({"w": jnp.ones(LARGE).at[0, 0].set(5)})
        np.testing.assert_array_equal(bus.tree()["w"], jnp.ones(LARGE).at[0, 0].set(5))


PROGRAMS = {
    "bytes": ("find", "cut", "take_words", "seed"),
    "digest": ("find_lines", "cut_lines", "take_lines"),
}


@pytest.mark.parametrize(
    ("shadow", "where"), [(shadow, where) for shadow in PROGRAMS for where in PROGRAMS[shadow]]
)
@pytest.mark.parametrize("wait", [True, False])
def test_device_without_memory_loses_nothing(shadow, where, wait):
    module = byte_shadow if shadow == "bytes" else digest_shadow
    is_before = shadow == "digest" or where in ("find", "seed")  # while arrays can still be read
    with mmsb.open(shadow=shadow) as bus:
        state = {"w": jnp.zeros(LARGE), "v": jnp.zeros(LARGE)}
        bus.commit(state)
        if where == "seed":
            bus.write("w", np.ones(LARGE, np.float32))  # the next commit makes a new one
        state = {"w": state["w"].at[0, 0].set(1), "v": state["v"] + 1}

        def fail(*_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room for 8 bytes")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, where, fail)
            if is_before:
                land(bus, state, wait)
                assert (bus.stats().device_bytes == 0) == (where in ("seed", "find_lines"))
            else:
                with pytest.raises(mmsb.DeviceMemoryError, match="Nothing has changed"):
                    land(bus, state, wait)
                assert bus.version == 1
        if not is_before and not wait:
            with pytest.raises(mmsb.DeviceMemoryError):
                bus.commit(state)
        bus.commit(state)
        np.testing.assert_array_equal(bus.tree()["w"], state["w"])
        np.testing.assert_array_equal(bus.tree()["v"], state["v"])


@pytest.mark.parametrize("shadow", [None, "bytes"])
@pytest.mark.parametrize("refuses", [False, True])
def test_bytes_travel_through_pinned_memory_where_that_is_faster(shadow, refuses, monkeypatch):
    """Here the CPU stands for a GPU; one that has no room in such memory goes the other way."""
    kinds = []
    original = jax.device_put

    def put(array, where, **options):
        kind = getattr(where, "memory_kind", None)
        if refuses and kind == "pinned_host":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no pinned memory")
        kinds.append(kind)
        return original(array, where, **options)

    monkeypatch.setattr(transfer, "has_pinned_memory", lambda device: True)
    monkeypatch.setattr(tree_writer, "_is_on_cpu", lambda leaf: False)
    monkeypatch.setattr(jax, "device_put", put)
    with mmsb.open(shadow=shadow) as bus:
        state = {"w": jnp.zeros(LARGE), "n": jnp.arange(9, dtype=jnp.int4), "k": jax.random.key(1)}
        for number in range(4):
            state |= {"w": state["w"].at[number, :3].set(number + 1), "k": jax.random.key(number)}
            bus.commit(state, wait=number % 2 == 0)
        np.testing.assert_array_equal(bus.tree()["w"], state["w"])
        assert bus.tree()["k"] == state["k"]
        for number in range(4):
            assert bus.checkout(version=number + 1)["w"][number, 0] == number + 1
    assert ("pinned_host" in kinds) == (not refuses)


def test_automatic_shadow_is_not_made_on_a_cpu():
    with mmsb.open() as bus:
        for number in range(5):
            bus.commit({"w": jnp.full(LARGE, number)})
        assert bus.stats().device_bytes == 0


def test_automatic_shadow_is_made_where_there_is_room(monkeypatch):
    from mmsb_jax._bus.device import policy

    monkeypatch.setattr(policy, "_has_room", lambda data: True)
    with mmsb.open() as bus:
        sizes = []
        for number in range(14):
            bus.commit({"w": jnp.zeros(LARGE).at[0].set(number)})
            sizes.append(bus.stats().device_bytes > 0)
        assert sizes == [False] * 2 + [True] * 12
        for number in range(9):
            bus.commit({"w": jnp.full(LARGE, number + 0.5)})
        assert bus.stats().device_bytes == 0  # all of it moves each time


def test_room_is_a_tenth_of_what_was_never_used():
    from mmsb_jax._bus.device import policy

    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    def has_room(stats):
        array = jnp.zeros(100)
        return policy.fits(Device(stats), array.nbytes)

    assert has_room({"bytes_limit": 5000, "peak_bytes_in_use": 1000})
    assert not has_room({"bytes_limit": 5000, "peak_bytes_in_use": 1001})
    assert not has_room(None)
    assert not has_room({})


@pytest.mark.parametrize("wait", [True, False])
def test_digest_brings_the_lines_that_changed(wait):
    tree = {"w": jnp.zeros(LARGE), "v": jnp.ones(LARGE)}
    with mmsb.open(shadow="digest") as bus:
        land(bus, tree, True)
        assert bus.stats().device_bytes == 2 * 2048 * (4 + 4 + 1)
        assert moved(bus, {name: leaf + 0 for name, leaf in tree.items()}, wait) == 2 * 4
        tree |= {"w": tree["w"].at[3].set(1)}  # a row of four lines
        assert moved(bus, tree, wait) == 2 * 4 + 8 * (4 + 128)  # of eight that are taken at a time
        tree |= {"v": tree["v"].at[:200].set(2)}  # more than a quarter: all of it
        assert moved(bus, tree, wait) == 2 * 4 + tree["v"].nbytes
        assert_same_tree(bus.tree(), tree)
        assert bus.verify(deep=True)


@pytest.mark.parametrize("wait", [True, False])
def test_change_that_a_digest_missed_is_found_and_named_behind_the_next_snapshot(wait, monkeypatch):
    """The digests of one array are made blind: what the digest of a collision would be."""
    shape = (512 + wait, 100)  # of no other test, which would have compiled the program
    tree = {"seen": jnp.zeros((3, 5)), "blind": jnp.zeros(shape)}

    def digest_lines(lines, first, second, key):
        lanes = xla.digest_lines(lines, first, second, key)
        return (first, second, 0 * lanes[2], 0 * lanes[3]) if lines.shape[0] > 500 else lanes

    monkeypatch.setattr(programs, "digest_lines", digest_lines)
    with mmsb.open(shadow="digest") as bus:
        land(bus, tree, True)
        tree = {"seen": tree["seen"] + 1, "blind": tree["blind"] + 1}
        land(bus, tree, wait)
        assert not np.asarray(bus.checkout()["blind"]).any()
        bus.snapshot()
        with pytest.warns(RuntimeWarning, match=r"missed changes of 'blind'"):
            land(bus, tree | {"seen": tree["seen"] + 1}, wait)
        np.testing.assert_array_equal(bus.checkout()["blind"], tree["blind"])
        assert bus.verify(deep=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_last_line_of_an_array_is_no_longer_than_it(dtype):
    tree = {"w": jnp.zeros(1001, dtype), "v": jnp.zeros(LARGE)}
    with mmsb.open(shadow="digest") as bus:
        land(bus, tree, True)
        tree |= {"w": tree["w"].at[1000].set(1)}
        assert moved(bus, tree) <= 8 + 8 * (4 + 128)  # eight lines at a time
        assert_same_tree(bus.tree(), tree)
        assert bus.verify(deep=True)


def test_audit_of_what_was_seen_is_silent(recwarn):
    tree = {"w": jnp.zeros(LARGE), "v": jnp.ones(7, jnp.bfloat16)}
    with mmsb.open(shadow="digest") as bus:
        for step in range(4):
            tree = {name: leaf.at[step].set(step) for name, leaf in tree.items()}
            bytes_moved = moved(bus, tree)
            assert (bytes_moved > tree["w"].nbytes) == (step in (0, 2))
            if step == 1:
                bus.snapshot()
        assert_same_tree(bus.tree(), tree)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.parametrize("choice", ["digests", "all", 1, True])
def test_unknown_shadow_is_refused(choice):
    with pytest.raises(ValueError, match="shadow="):
        mmsb.open(shadow=choice)


def test_patches_that_share_a_word_become_one():
    words, mask, data = merged(
        [
            (np.array([3]), np.array([0xFFFF], np.uint32), np.array([0x1234], np.uint32)),
            (
                np.array([1, 3]),
                np.full(2, 0xFFFF0000, np.uint32),
                np.full(2, 0x56780000, np.uint32),
            ),
        ]
    )
    assert words.tolist() == [1, 3]
    assert mask.tolist() == [0xFFFF0000, 0xFFFFFFFF]
    assert data.tolist() == [0x56780000, 0x56781234]


@pytest.mark.parametrize("total", [1, 255, 256, 257, 1000, 50_000, (1 << 20) + 1, 3_000_000])
def test_words_are_taken_in_few_sizes(total):
    chunks = list(device_shadow.chunks_of(total))
    ends = [start + size for start, size in chunks]
    assert [start for start, _ in chunks] == [0, *ends[:-1]]
    assert total <= ends[-1] <= max(512, total * 4 / 3)
    assert all(size & (size - 1) == 0 for _, size in chunks)
    assert len(chunks) <= 10 + total // (1 << 20)
