"""Files of safetensors: bit for bit out and in, as the package of that name reads them too."""

import contextlib
import json
import struct
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors import deserialize, safe_open
from safetensors.numpy import load_file, save_file

import mmsb_jax as mmsb
from mmsb_jax._bus.weights.tensors import TENSOR_DTYPES
from tests.bus._pull import read_file

PLAIN = sorted(TENSOR_DTYPES.keys() - {"float4_e2m1fn"})


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


@st.composite
def arrays(draw):
    """Arrays of any bits: NaNs with payloads, negative zeros, subnormal numbers."""
    dtype = dtype_of(draw(st.sampled_from(PLAIN)))
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), np.uint8)
    raw = raw & 1 if dtype == np.dtype(bool) else raw
    return raw.view(dtype).reshape(shape)


NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, arrays(), min_size=1, max_size=5))
def test_what_goes_out_comes_back_bit_for_bit(tmp_path_factory, tensors):
    bus, path = mmsb.open(), tmp_path_factory.mktemp("out") / "all.safetensors"
    names = dict(zip([f"a{number}" for number in range(len(tensors))], tensors, strict=True))
    bus.commit({key: tensors[name] for key, name in names.items()})
    bus.to_safetensors(path, rename=names.__getitem__)
    back = mmsb.from_safetensors(path)
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape), name
        assert back[name].tobytes() == array.tobytes()
    other = dict(deserialize(path.read_bytes()))  # in Rust
    assert {name: bytes(said["data"]) for name, said in other.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }


def test_other_programs_read_the_file_and_what_it_says_of_itself(tmp_path):
    bus = mmsb.open()
    tree = {"a": np.arange(3, dtype=np.float32), "b": {"c": np.ones((2, 2), np.int64)}, "s": "text"}
    commit = bus.commit(tree)
    path = bus.to_safetensors(tmp_path / "w.safetensors", rename=lambda name: "x." + name)
    assert list(tmp_path.iterdir()) == [path]
    loaded = load_file(path)
    assert loaded.keys() == {"x.a", "x.b/c"}
    assert np.array_equal(loaded["x.b/c"], tree["b"]["c"])
    with safe_open(path, "np") as opened:
        said = opened.metadata()
    assert said.keys() == {
        "format",
        *(f"mmsb_{n}" for n in ("log_id", "version", "chain", "digest")),
    }
    assert (said["format"], said["mmsb_version"]) == ("pt", str(commit.version))
    save_file({"w": np.ones(3, np.float16)}, tmp_path / "other.safetensors")
    assert mmsb.from_safetensors(tmp_path / "other.safetensors")["w"].dtype == np.float16


@pytest.mark.parametrize("count", [0, 2, 16])
def test_float4_is_packed_with_the_first_in_the_lower_half(tmp_path, count):
    bus = mmsb.open()
    w = np.arange(count, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).reshape(-1, 2)
    bus.commit({"w": w})
    path = bus.to_safetensors(tmp_path / "w.safetensors")
    dtype, shape, data = read_file(path)[1]["w"]
    assert (dtype, shape, list(data)) == (
        "F4", w.shape, [low | low + 1 << 4 for low in range(0, count, 2)]
    )  # fmt: skip
    assert deserialize(path.read_bytes())[0][1]["dtype"] == "F4"
    back = mmsb.from_safetensors(path)["w"]
    assert (back.dtype, back.shape, back.tobytes()) == (w.dtype, w.shape, w.tobytes())
    bus.commit({"w": w.reshape(-1)[:1]}, structure="new")
    if count:
        with pytest.raises(mmsb.StructureError, match="1 elements of 4 bits"):
            bus.to_safetensors(path)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "complex128", "float8_e3m4", "<M8[ns]", ">f4"])
def test_dtype_that_files_do_not_have_is_refused_by_name(tmp_path, dtype):
    bus = mmsb.open()
    bus.commit({"good": np.ones(2), "bad": np.zeros(2, dtype_of(dtype))})
    with pytest.raises(mmsb.StructureError, match=r"array 'bad' is .*safetensors does not have"):
        bus.to_safetensors(tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())
    bus.to_safetensors(tmp_path / "w.safetensors", arrays="good")


def test_version_selection_and_names(tmp_path):
    bus, path = mmsb.open(save=mmsb.Every(steps=2)), tmp_path / "w.safetensors"
    for step in range(4):
        bus.commit({"p": {"x": np.full(3, step), "y": np.ones(2)}, "q": np.zeros(1)}, step=step)
    bus.to_safetensors(path)  # the newest with bytes
    assert mmsb.from_safetensors(path)["p/x"].tolist() == [2, 2, 2]
    bus.to_safetensors(path, bus.at(step=0), arrays=["p/**"], rename={"p": "m", "p/x": "z"})
    found = mmsb.from_safetensors(path)
    assert found.keys() == {"m/y", "z"}
    assert found["z"].tolist() == [0, 0, 0]
    with pytest.raises(mmsb.VersionError, match="the nearest with bytes: 3"):
        bus.to_safetensors(path, 4)
    with pytest.raises(mmsb.ArrayNotFoundError, match="selects nothing"):
        bus.to_safetensors(path, arrays="r")
    with pytest.raises(mmsb.ArrayNotFoundError):
        bus.to_safetensors(path, arrays="p", rename={"q": "z"})
    with pytest.raises(mmsb.StructureError, match=r"gives both 'p/x' and 'p/y' the name 'same'"):
        bus.to_safetensors(path, arrays="p", rename=lambda name: "same")
    with pytest.raises(mmsb.StructureError, match="__metadata__"):
        bus.to_safetensors(path, arrays="q", rename=lambda name: "__metadata__")
    with pytest.raises(TypeError, match="expected a name"):
        bus.to_safetensors(path, arrays="q", rename=lambda name: None)
    with pytest.raises(mmsb.LocationError, match="cannot be written"):
        bus.to_safetensors(tmp_path / "nowhere" / "w.safetensors")


class Layer(NamedTuple):
    w: jax.Array
    act: object
    name: str
    gone: None


def test_tree_like_another_gets_classes_functions_dtypes_and_places(tmp_path):
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    key = jax.random.key(7)
    bus = mmsb.open()
    bus.commit({"w": w.astype(ml_dtypes.bfloat16), "key": key, "scale": 0.5, "extra": np.ones(1)})
    path = bus.to_safetensors(tmp_path / "w.safetensors", rename={"w": "layer.w"})
    place = jax.sharding.SingleDeviceSharding(jax.devices()[-1])
    like = {
        "layer": Layer(
            jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=place), jnp.tanh, "n", None
        ),
        "key": jax.random.key(0),
        "scale": 0.0,
    }
    options = {"rename": lambda name: name.replace(".", "/"), "cast": True}
    chosen = ["layer.w", "key", "scale"]
    tree = mmsb.from_safetensors(path, like=like, arrays=chosen, **options)
    assert isinstance(tree["layer"].w, jax.Array)
    assert tree["layer"].w.sharding == place
    assert np.array_equal(tree["layer"].w, w)
    assert tree["layer"][1:] == (jnp.tanh, "n", None)
    assert jnp.array_equal(jax.random.key_data(tree["key"]), jax.random.key_data(key))
    assert tree["scale"] == 0.5
    with pytest.raises(mmsb.StructureError, match=r"the tensors in .*\n  extra: recorded, not in"):
        mmsb.from_safetensors(path, like=like, **options)
    with pytest.raises(mmsb.StructureError, match=r"layer/w: float32\[2,3\]"):
        mmsb.from_safetensors(path, like=like, arrays=chosen, **options | {"cast": False})
    with pytest.warns(UserWarning, match="new"):
        tree = mmsb.from_safetensors(
            path, like=like | {"new": jnp.ones(1)}, arrays=chosen, missing="keep", **options
        )
    assert tree["new"].tolist() == [1]


def test_checkpoint_in_several_files_is_read_as_one(tmp_path):
    for place, name in enumerate("ab"):
        save_file({name: np.full(2, place)}, tmp_path / f"model-{place}.safetensors")
    assert mmsb.from_safetensors(tmp_path).keys() == {"a", "b"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-0.safetensors"}}))
    assert mmsb.from_safetensors(tmp_path).keys() == mmsb.from_safetensors(index).keys() == {"a"}
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(mmsb.LocationError):
        mmsb.from_safetensors(tmp_path)
    for bad in ('{"weight_map": {"a": "../model-0.safetensors"}}', "[]", '{"weight_map": 1}', "{"):
        index.write_text(bad)
        with pytest.raises(mmsb.CorruptionError):
            mmsb.from_safetensors(tmp_path)
    index.unlink()
    save_file({"a": np.ones(1)}, tmp_path / "model-2.safetensors")
    with pytest.raises(mmsb.CorruptionError, match="'a' is in two files"):
        mmsb.from_safetensors(tmp_path)
    with pytest.raises(mmsb.LocationError, match="holds no file"):
        mmsb.from_safetensors((tmp_path / "empty").absolute().parent / "..", arrays="a")


def test_what_changed_between_two_versions_is_no_checkpoint(tmp_path):
    bus = mmsb.open()
    publisher = bus.publish(tmp_path)
    for value in range(2):
        bus.commit({"w": np.full(1000, value)})
        pushed = publisher.push()
    with pytest.raises(mmsb.FormatError, match="what changed since version 000001"):
        mmsb.from_safetensors(pushed.path)
    assert mmsb.from_safetensors(tmp_path / "weight_v000001")["w"].tolist() == [0] * 1000


def forged(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def said(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


FORGED = {
    "nothing": b"",
    "no header": b"\0" * 7,
    "a header that is longer than the file": forged({}, length=2**40),
    "no JSON": forged(b"{"),
    "no UTF-8": forged(b'{"\xff": 1}'),
    "deep JSON": forged(b"[" * 100_000),
    "a list": forged([]),
    "metadata of numbers": forged({"__metadata__": {"a": 1}}),
    "metadata that is a list": forged({"__metadata__": [1]}),
    "half a character": forged(b'{"\\ud800": {}}'),
    "an entry that is a number": forged({"a": 1}),
    "an entry without offsets": forged({"a": {"dtype": "F32", "shape": []}}),
    "three offsets": forged({"a": said(offsets=(0, 4, 4))}, bytes(4)),
    "a negative length": forged({"a": said(shape=(-1,))}, bytes(4)),
    "a length that is true": forged({"a": said(shape=(True,))}, bytes(4)),
    "a length that is a float": forged({"a": said(shape=(1.0,))}, bytes(4)),
    "a huge shape": forged({"a": said(shape=(2**62, 2**62))}, bytes(4)),
    "another size than the shape's": forged({"a": said(shape=(2,))}, bytes(4)),
    "offsets that go back": forged({"a": said(offsets=(4, 0))}, bytes(4)),
    "tensors that overlap": forged({"a": said(), "b": said()}, bytes(4)),
    "a gap": forged({"a": said(), "b": said(offsets=(8, 12))}, bytes(12)),
    "bytes at the end": forged({"a": said()}, bytes(5)),
    "bytes that are missing": forged({"a": said()}, bytes(3)),
    "an odd number of halves": forged({"a": said("F4", (3,), (0, 1))}, bytes(1)),
    "a bool that is 2": forged({"a": said("BOOL", (4,))}, b"\0\1\2\0"),
}


@pytest.mark.parametrize("what", FORGED)
def test_file_that_is_damaged_is_refused(tmp_path, what):
    path = tmp_path / "w.safetensors"
    path.write_bytes(FORGED[what])
    with pytest.raises(mmsb.CorruptionError, match=r"w\.safetensors"):
        mmsb.from_safetensors(path)


@pytest.mark.parametrize("dtype", ["F6_E2M3", "I4", "C128", ""])
def test_dtype_that_no_array_has_is_refused_by_name(tmp_path, dtype):
    path = tmp_path / "w.safetensors"
    path.write_bytes(forged({"a": said(dtype)}, bytes(4)))
    with pytest.raises(mmsb.FormatError, match="tensor 'a'"):
        mmsb.from_safetensors(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_file_with_a_flipped_byte_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flipped") / "w.safetensors"
    bus = mmsb.open()
    bus.commit({"a": np.arange(3, dtype=np.int16), "b": np.ones(2, np.float32)})
    raw = bytearray(bus.to_safetensors(path, rename=lambda name: name).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with contextlib.suppress(mmsb.CorruptionError, mmsb.FormatError):
        mmsb.from_safetensors(path)


def test_file_is_that_of_the_version_whatever_is_committed_meanwhile(tmp_path, monkeypatch):
    """The bytes are the version's own before the lock is given back."""
    from mmsb_jax._bus.weights import save

    bus, write = mmsb.open(), save.write_file
    bus.commit({"w": np.zeros(100)})

    def late(path, buffers):
        thread = threading.Thread(target=bus.commit, args=({"w": np.ones(100)},))
        thread.start()
        thread.join()  # the bus is not held
        return write(path, buffers)

    monkeypatch.setattr(save, "write_file", late)
    path = bus.to_safetensors(tmp_path / "w.safetensors")
    assert bus.version == 2
    assert not mmsb.from_safetensors(path)["w"].any()
