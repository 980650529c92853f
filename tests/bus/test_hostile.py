"""Logs from a stranger, as a bus reads them: what no leaf can be ends in a library's error."""

import contextlib
import random

import jax
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._base.errors import CorruptionError, FormatError, MMSBError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.transfer.stream import write_stream
from tests.store._forged import append_forged, forge
from tests.store._logs import PLACE, Scribe
from tests.torture._bundle import STREAM, pack, unpack
from tests.torture._mutate import mutated, random_mutate
from tests.torture._seeds import streams

INPUTS = 100


def bus_with(**said) -> Bus:
    """A bus that reads a log whose only commit says ``said``, with every digest right."""
    scribe = Scribe()
    append_forged(scribe, **said)
    forge(scribe.files, scribe.log.pieces[-1].segment.name, lambda _: None)
    return Bus(Log(scribe.files, PLACE), None, scribe.files, None)


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [
        ("int", "int64", (3,)),
        ("bool", "float32", (2, 2)),
        ("jax", "|S3", (2,)),
        ("jax", "<M8[ns]", (2,)),
        ("key:none", "uint32", (2,)),
        ("key:threefry2x32", "float32", (2,)),
        ("key:threefry2x32", "uint32", (3,)),
        ("numpy", "|S0", (2,)),
    ],
)
def test_array_that_is_recorded_as_what_no_leaf_is_is_damage(kind, dtype, shape):
    info = ArrayInfo(1, "w", kind, dtype, shape, True)
    with bus_with(ops=[Op(OpCode.CREATE, info)]) as bus:
        for ask in (bus.checkout, bus.tree, lambda: bus.read("w")):
            with pytest.raises(CorruptionError, match=r"'w' is recorded as .* which no leaf is"):
                ask()


@pytest.mark.parametrize("kind", ["anything", "Jax", ""])
def test_array_of_a_kind_that_is_not_known_comes_as_an_array(kind):
    info = ArrayInfo(1, "w", kind, "float32", (2,), True)
    with bus_with(ops=[Op(OpCode.CREATE, info)]) as bus:
        assert np.asarray(bus.checkout()["w"]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tagged", "error"),
    [("", FormatError), ("x:1", FormatError), ("i:", CorruptionError), ("i:1e9", CorruptionError),
     ("i:" + "9" * 5_000, CorruptionError)],
)  # fmt: skip
def test_constant_that_is_none_is_refused(tagged, error):
    with (
        bus_with(values={"c": tagged}) as bus,
        pytest.raises(error, match=r"of unknown kind|as a number"),
    ):
        bus.checkout()


def test_replica_keeps_its_arrays_where_a_commit_names_another_digest_of_the_state():
    scribe = Scribe()
    scribe.create("w", (3,)).commit()
    append_forged(scribe, next_id=2)  # it changes nothing, and says 0
    log = Log(scribe.files, PLACE)
    first, second = (b"".join(write_stream(log, since, since + 1)) for since in (0, 1))
    replica = mmsb.Replica(first, like={"w": jax.ShapeDtypeStruct((3,), np.float32)})
    replica.update()
    with pytest.raises(CorruptionError, match="the state does not have the digest recorded"):
        replica.update(second)
    assert replica.version == 1


def test_replica_of_streams_that_say_anything_ends_in_an_error_or_in_what_was_recorded():
    pool = [pack({STREAM: raw}) for raw in streams()]
    like, taken = {"w": jax.ShapeDtypeStruct((300,), np.float32)}, 0
    for number in range(INPUTS):
        rng = random.Random(number)
        raw = unpack(mutated(rng.choice(pool), rng, random_mutate(rng), pool)).get(STREAM, b"")
        replica = mmsb.Replica(like=like, arrays=["w"])
        with contextlib.suppress(MMSBError):
            replica.update(raw)
            taken += 1
        assert (replica.version == 0) or replica.update()["w"].shape == (300,)
    print(f"{INPUTS} streams, {taken} of them taken")
    assert 0 < taken < INPUTS
