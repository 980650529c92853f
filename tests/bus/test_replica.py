"""Replicas: arrays of another process, brought forward on the device, bit for bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

import mmsb_jax as mmsb
from mmsb_jax._bus.replica import resident
from mmsb_jax._bus.replica.resident import OnDevice
from tests.bus._script import run_script

LARGE = 40_000
DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "float32", "float64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int4", "uint4", "float4_e2m1fn", "int2",
]  # fmt: skip


def bits(leaf) -> bytes:
    return np.asarray(leaf).tobytes()


def random_bits(dtype: np.dtype, size: int, rng: np.random.Generator) -> np.ndarray:
    """Every bit pattern that an element can have."""
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    if dtype.itemsize == 1 and (mask := 2 ** _width(dtype) - 1) < 255:
        raw = rng.integers(0, mask + 1, size).astype(np.uint8)
        signed = dtype.name.startswith("int")
        return raw.astype(np.int8).astype(dtype) if signed else raw.view(dtype)
    return rng.integers(0, 256, size * dtype.itemsize).astype(np.uint8).view(dtype)


def _width(dtype: np.dtype) -> int:
    return next(
        (n for n in (1, 2, 4) if dtype.name.removeprefix("u") in (f"int{n}", f"float{n}_e2m1fn")), 8
    )


def as_jax(array: np.ndarray) -> jax.Array:
    with jax.enable_x64(True):
        return jnp.asarray(array)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("size", [3, LARGE + 1])
def test_replica_is_bit_exact_for_every_dtype_and_kind_of_change(name, size):
    dtype, rng = np.dtype(getattr(ml_dtypes, name, name)), np.random.default_rng(5)
    x = random_bits(dtype, size, rng)
    with mmsb.open() as bus:
        bus.commit({"x": as_jax(x)})
        replica = mmsb.Replica(bus.export(), like={"x": as_jax(x)})
        assert bits(replica.update()["x"]) == x.tobytes()
        for change in ("few", "all", "few twice", "low bits", "few and low bits", "nothing"):
            for part in change.split(" and ") if " and " in change else [change]:
                x = changed(x, part, rng)
                bus.commit({"x": as_jax(x)})
                if change == "few twice":
                    x = changed(x, part, rng)
                    bus.commit({"x": as_jax(x)})
            tree = replica.update(bus.export(since=replica.version))
            assert bits(tree["x"]) == x.tobytes(), change
            assert (tree["x"].dtype, tree["x"].shape) == (dtype, (size,))
            assert isinstance(tree["x"], jax.Array)
        assert replica.version == bus.version


def changed(x: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    x = x.copy()
    if how.startswith("few"):
        places = rng.integers(0, x.size, 1 + x.size // 2000)
        x[places] = random_bits(x.dtype, places.size, rng)
    elif how == "all":
        return random_bits(x.dtype, x.size, rng)
    elif how == "low bits" and x.dtype.itemsize > 1:
        x.view(np.uint8)[:: x.dtype.itemsize] ^= rng.integers(0, 2, x.size).astype(np.uint8)
    return x


def weights(i: int) -> dict[str, object]:
    rng = np.random.default_rng(i)
    w = np.zeros((200, 300), ml_dtypes.bfloat16)
    w.reshape(-1)[rng.integers(0, w.size, 30)] = i
    return {
        "w": jnp.asarray(w),
        "b": jnp.full(7, i, jnp.float32),
        "key": jax.random.key(i),
        "host": np.full(3, i),
        "n": i,
        "name": f"v{i}",
        "act": jax.nn.relu,
    }


def same(tree, expected) -> None:
    for name, leaf in expected.items():
        here = tree[name]
        if name == "key":
            here, leaf = jax.random.key_data(here), jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array | np.ndarray):
            assert bits(here) == bits(leaf), name
            assert type(here) is type(leaf), name
        else:
            assert here == leaf, name


def test_replica_of_a_log_takes_the_newest_and_skips_what_lies_between(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        bus.commit(weights(1))
        with mmsb.Replica(tmp_path / "x.mmsb", like=weights(0)) as replica:
            same(replica.update(), weights(1))
            for i in range(2, 9):
                bus.commit(weights(i))
            same(replica.update(), weights(8))
            assert replica.version == 8
            tree = replica.update()
            assert tree is replica.update()


def test_replica_that_is_far_behind_or_behind_a_compaction_loads_the_newest_state(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        bus.commit(weights(1))
        with mmsb.Replica(tmp_path / "x.mmsb", like=weights(0)) as replica:
            replica.update()
            for i in range(2, 6):
                bus.commit(weights(i))
            bus.compact(keep_since=5)
            same(replica.update(), weights(5))
            noise = np.random.default_rng(0)
            for _ in range(4):
                big = noise.integers(0, 2**16, 300_000).astype(np.uint16)
                bus.commit(weights(6) | {"big": big}, structure="new")
            with pytest.raises(mmsb.StructureError, match="big: recorded, not in `like`"):
                replica.update()
            same(replica._arrays.tree, weights(5))


def test_replica_of_frames_takes_them_one_after_the_other():
    with mmsb.open() as bus:
        bus.commit(weights(1))
        frames = [bus.export(0)]
        for i in range(2, 5):
            bus.commit(weights(i))
            frames.append(bus.export(i - 1))
        replica = mmsb.Replica(iter(frames), like=weights(0))
        for i in range(1, 5):
            same(replica.update(), weights(i))
        same(replica.update(), weights(4))  # there is no more
        same(replica.update(frames[1]), weights(4))  # known already
        same(replica.update(bus.export(0)), weights(4))
        assert replica.version == 4


def test_replica_without_anything_has_no_tree():
    replica = mmsb.Replica(like=weights(0))
    assert replica.update() is None
    assert replica.version == 0


def test_replica_takes_a_file(tmp_path):
    with mmsb.open() as bus:
        bus.commit(weights(1))
        replica = mmsb.Replica(like=weights(0))
        same(replica.update(bus.export(path=tmp_path / "x")), weights(1))


def test_replica_with_a_gap_or_of_another_history_keeps_what_it_has():
    with mmsb.open() as bus, mmsb.open() as other:
        for i in range(1, 5):
            bus.commit(weights(i))
        other.import_(bus.export(0))
        replica = mmsb.Replica(bus.export(0), like=weights(0))
        replica.update()
        bus.commit(weights(5))
        bus.commit(weights(6))
        other.commit(weights(7))
        with pytest.raises(mmsb.VersionError, match="since=4"):
            replica.update(bus.export(5))
        same(replica.update(bus.export(4)), weights(6))
        with pytest.raises(mmsb.VersionError):
            mmsb.Replica(like=weights(0)).update(bus.export(4))
        other.commit(weights(8))
        other.commit(weights(9))
        with pytest.raises(mmsb.DivergenceError, match="another history"):
            replica.update(other.export(4))
        with pytest.raises(mmsb.DivergenceError, match="at version 6"):
            replica.update(other.export(6))
        same(replica.update(), weights(6))


def test_replica_of_a_late_join_goes_on():
    with mmsb.open() as bus:
        for i in range(1, 4):
            bus.commit(weights(i))
        bus.snapshot()
        bus.commit(weights(4))
        replica = mmsb.Replica(bus.export(), like=weights(0))
        same(replica.update(), weights(4))
        bus.commit(weights(5))
        same(replica.update(bus.export(4)), weights(5))
        bus.commit(weights(6))
        bus.snapshot()
        bus.commit(weights(7))
        same(replica.update(bus.export()), weights(7))  # from its snapshot, across a gap


def test_replica_gives_up_nothing_before_the_digest_holds(monkeypatch):
    with mmsb.open() as bus:
        bus.commit(weights(1))
        replica = mmsb.Replica(bus.export(), like=weights(0))
        replica.update()
        bus.commit(weights(2))
        stream = bus.export(1)
        held = OnDevice.lanes
        monkeypatch.setattr(OnDevice, "lanes", lambda self: (held(self)[0] ^ 1, 0))
        with pytest.raises(mmsb.CorruptionError, match=r"'w' do not have the digest.*keeps"):
            replica.update(stream)
        assert replica.version == 1
        monkeypatch.undo()
        same(replica.update(), weights(1))
        same(replica.update(stream), weights(2))


def test_replica_sees_that_a_device_changed_another_byte(monkeypatch):
    with mmsb.open() as bus:
        bus.commit(weights(1))
        replica = mmsb.Replica(bus.export(), like=weights(0))
        replica.update()
        bus.commit(weights(2))
        padded = resident._padded

        def wrong(elements, values, spec):
            return padded(elements ^ 1, values, spec)

        monkeypatch.setattr(resident, "_padded", wrong)
        with pytest.raises(mmsb.CorruptionError, match="'w'"):
            replica.update(bus.export(1))
        assert replica.version == 1


def test_replica_whose_arrays_were_donated_takes_them_from_the_log_again(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        bus.commit(weights(1))
        replica = mmsb.Replica(tmp_path / "x.mmsb", like=weights(0))
        stream = mmsb.Replica(bus.export(), like=weights(0))
        replica.update()["w"].delete()
        stream.update()["w"].delete()
        bus.commit(weights(2))
        same(replica.update(), weights(2))
        with pytest.raises(mmsb.StructureError, match="donated"):
            stream.update(bus.export(1))
        replica.close()


def test_replica_of_a_part_has_its_arrays_alone(tmp_path):
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        params = {"w": jnp.zeros(LARGE), "b": jnp.zeros(3)}
        bus.commit({"params": params, "momentum": jnp.ones(LARGE)})
        replica = mmsb.Replica(tmp_path / "x.mmsb", like=params, arrays=["params/**"])
        assert replica.update().keys() == {"w", "b"}
        params["w"] = params["w"].at[5].set(1)
        bus.commit({"params": params, "momentum": jnp.full(LARGE, 2.0)})
        same(replica.update(), params)
        assert replica.version == 2
        replica.close()


def test_replica_of_numpy_arrays_gives_jax_arrays_where_like_has_them():
    with mmsb.open() as bus:
        x = np.arange(LARGE, dtype=np.float32)
        bus.commit({"x": x})
        like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}
        replica = mmsb.Replica(bus.export(), like=like)
        assert isinstance(replica.update()["x"], jax.Array)
        x[7] = -1
        bus.commit({"x": x})
        assert bits(replica.update(bus.export(1))["x"]) == x.tobytes()


def test_replica_of_another_structure_names_the_paths():
    with mmsb.open() as bus:
        bus.commit({"w": jnp.zeros(3)})
        with pytest.raises(mmsb.StructureError, match=r"v: .* not recorded"):
            mmsb.Replica(bus.export(), like={"v": jnp.zeros(3)}).update()
        replica = mmsb.Replica(bus.export(), like={"w": jnp.zeros(3)})
        replica.update()
        bus.commit({"w": jnp.zeros(4)}, structure="new")
        with pytest.raises(mmsb.StructureError, match="another structure"):
            replica.update(bus.export(1))
        assert replica.version == 1


def test_replica_of_no_log_is_refused(tmp_path):
    with pytest.raises(mmsb.LocationError):
        mmsb.Replica(tmp_path / "none", like={})


def test_replica_places_arrays_and_leaves_them_uncommitted_where_like_is():
    device = SingleDeviceSharding(jax.devices()[0])
    for like, is_committed in (
        (jnp.zeros(LARGE), False),
        (jax.ShapeDtypeStruct((LARGE,), jnp.float32, sharding=device), True),
    ):
        with mmsb.open() as bus:
            bus.commit({"x": jnp.zeros(LARGE)})
            replica = mmsb.Replica(bus.export(), like={"x": like})
            assert replica.update()["x"].committed is is_committed
            bus.commit({"x": jnp.zeros(LARGE).at[3].set(1)})
            tree = replica.update(bus.export(1))
            assert tree["x"].committed is is_committed
            assert tree["x"][3] == 1


def test_replica_compiles_few_programs(compilations):
    with mmsb.open() as bus:
        x = np.zeros(LARGE, np.float32)
        bus.commit({"x": jnp.asarray(x)})
        replica = mmsb.Replica(bus.export(), like={"x": jnp.asarray(x)})
        replica.update()
        rng = np.random.default_rng(0)
        streams = []
        for count in (1, 5, 900, 1000, 17, 3000, 2000, 4000):
            x[rng.permutation(x.size)[:count]] += 1
            streams.append((bus.commit({"x": jnp.asarray(x)}), bus.export(bus.version - 1)))
        compilations.clear()
        for _, stream in streams:
            replica.update(stream)
        assert bits(replica._arrays.tree["x"]) == x.tobytes()
        assert 1 <= len(compilations) <= 2  # one a bucket


def test_replica_changes_what_a_device_holds_by_what_differs(monkeypatch):
    taken = []
    mixed = OnDevice._mixed
    monkeypatch.setattr(
        OnDevice, "_mixed", lambda self, *masks: taken.append(1) or mixed(self, *masks)
    )
    value = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    with mmsb.open() as bus:
        bus.commit({"x": jnp.asarray(value)})
        replica = mmsb.Replica(bus.export(), like={"x": jnp.asarray(value)})
        replica.update()
        value = np.nextafter(value, np.float32(9))
        bus.commit({"x": jnp.asarray(value)})
        tree = replica.update(bus.export(replica.version))
    assert np.asarray(tree["x"]).tobytes() == value.tobytes()
    assert taken == [1]


def test_replica_over_several_devices_sends_each_its_part():
    run_script(
        """
        import jax, jax.numpy as jnp, numpy as np, mmsb_jax as mmsb
        from jax.sharding import NamedSharding, PartitionSpec
        from mmsb_jax._bus.replica.resident import OnDevice
        mesh = jax.make_mesh((2, 2), ("a", "b"))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((130, 514)).astype(jnp.bfloat16)
        parts = {"x": PartitionSpec("a", "b"), "y": PartitionSpec()}
        like = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, part))
                for n, part in parts.items()}
        with mmsb.open() as bus:
            bus.commit({"x": jnp.asarray(x), "y": jnp.asarray(x)})
            replica = mmsb.Replica(bus.export(), like=like)
            replica.update()
            for i in range(4):
                if i == 2:
                    x = rng.standard_normal(x.shape).astype(jnp.bfloat16)
                else:
                    x = x.copy()
                    x.reshape(-1)[rng.integers(0, x.size, 100)] = i
                bus.commit({"x": jnp.asarray(x), "y": jnp.asarray(x)})
                tree = replica.update(bus.export(replica.version))
                for name in "xy":
                    assert np.asarray(tree[name]).tobytes() == x.tobytes(), (i, name)
                    assert tree[name].sharding == like[name].sharding
                    for shard in tree[name].addressable_shards:
                        assert np.asarray(shard.data).tobytes() == x[shard.index].tobytes()
            assert all(isinstance(held, OnDevice) for held in replica._arrays._held.values())
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )


def test_replica_works_whatever_the_settings_of_jax():
    with mmsb.open() as bus:
        x = np.zeros(LARGE, np.float64)
        like = {"x": as_jax(x)}
        bus.commit(like)
        first = bus.export()
        x[3] = np.nan
        bus.commit({"x": as_jax(x)})
        second = bus.export(1)
        with jax.transfer_guard("disallow"), jax.debug_nans(True), jax.enable_x64(False):
            replica = mmsb.Replica(first, like=like)
            replica.update()
            tree = replica.update(second)
        assert bits(tree["x"]) == x.tobytes()
