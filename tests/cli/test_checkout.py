"""``mmsb checkout``."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mmsb_jax._base.dtypes import dtype_name, parse_dtype

BFLOAT16 = np.array([1.5, -0.0, np.nan, np.inf], ml_dtypes.bfloat16)
ARRAYS = {
    "params/w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "params/bf16": BFLOAT16,
    "params/f8": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn),
    "params/f8_e5m2": np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2),
    "params/i4": np.array([-8, 7, 0], ml_dtypes.int4),
    "count": np.array(5, np.int64),
    "empty": np.zeros((0, 3), np.complex64),
    "flags": np.array([True, False]),
    "big-endian": np.array([1, 2], ">f4"),
    "text": np.array(["a", "bcd"]),
    "when": np.array([1, 2], "M8[ns]"),
    "~": np.array([1], np.int8),
}
STRANGE = [
    "../../climbs",
    "/absolute",
    ".hidden",
    "a//b",
    "a/./b",
    "x.npy",
    "x.npy/y",
    "mmsb.json",
    "nul\0byte",
    "new\nline",
    "back\\slash",
    "long" * 100,
    "@3",
]


@pytest.fixture
def path(recorder) -> str:
    """A log of all kinds of arrays; version 2 doubles ``params/w``."""
    recorder.commit(ARRAYS, step=1, time_ns=10, values={"act": "f:jax.nn.relu", "name": "s:run"})
    recorder.commit({"params/w": ARRAYS["params/w"] * 2}, step=2, time_ns=20)
    return recorder.path


def load(out: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Manifest and arrays, as the help says to read them."""
    if out.suffix == ".npz":
        npz = np.load(out, allow_pickle=False)
        manifest = json.loads(npz["mmsb.json"])
        stored = {name: npz[entry["member"]] for name, entry in manifest["arrays"].items()}
    else:
        manifest = json.loads((out / "mmsb.json").read_bytes())
        stored = {
            name: np.load(out / entry["member"], allow_pickle=False)
            for name, entry in manifest["arrays"].items()
        }
    arrays = {}
    for name, entry in manifest["arrays"].items():
        assert stored[name].dtype.str == entry["stored_dtype"]
        assert list(stored[name].shape) == entry["shape"]
        arrays[name] = stored[name].view(parse_dtype(entry["dtype"]))
    return manifest, arrays


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert dtype_name(found[name].dtype) == dtype_name(array.dtype)
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", ["out.npz", "out"])
def test_checkout_of_a_version_comes_back_bit_for_bit(mmsb, path, tmp_path, name):
    ran = mmsb("checkout", path, "--version", 1, "--out", tmp_path / name)
    assert ran.code == 0, ran.err
    manifest, arrays = load(tmp_path / name)
    assert_same(arrays, ARRAYS)
    assert (manifest["version"], manifest["step"], manifest["time_ns"]) == (1, 1, 10)
    assert manifest["arrays"]["params/bf16"]["stored_dtype"] == "<u2"
    assert manifest["values"] == {
        "act": {"kind": "function", "value": "jax.nn.relu"},
        "name": {"kind": "str", "value": "run"},
    }


def test_checkout_into_npz_has_each_array_under_its_name(mmsb, path, tmp_path):
    mmsb("checkout", path, "--out", tmp_path / "out.npz")
    npz = np.load(tmp_path / "out.npz", allow_pickle=False)
    np.testing.assert_array_equal(npz["params/w"], ARRAYS["params/w"] * 2)
    assert npz["params/bf16"].view(ml_dtypes.bfloat16).tobytes() == BFLOAT16.tobytes()


@pytest.mark.parametrize(
    ("selection", "version"),
    [([], 2), (["--version", 1], 1), (["--step", 1], 1), (["--time-ns", 19], 1)],
)
def test_checkout_of_a_selection_writes_that_version(mmsb, path, tmp_path, selection, version):
    ran = mmsb("checkout", path, *selection, "--out", tmp_path / "out.npz", "--json")
    assert ran.code == 0
    assert ran.json["version"] == version
    assert load(tmp_path / "out.npz")[1]["params/w"][0, 1] == version


def test_checkout_of_patterns_writes_these_arrays_alone(mmsb, path, tmp_path):
    out = tmp_path / "out.npz"
    ran = mmsb("checkout", path, "--out", out, "--arrays", "*/f8*", "--arrays", "count", "--json")
    assert ran.json["arrays"] == 3
    assert load(out)[1].keys() == {"params/f8", "params/f8_e5m2", "count"}


def test_checkout_of_a_pattern_without_an_array_exits_3(mmsb, path, tmp_path):
    ran = mmsb("checkout", path, "--out", tmp_path / "out.npz", "--arrays", "nothing")
    assert ran.code == 3
    assert "no array at version 2 matches 'nothing'" in ran.err
    assert not (tmp_path / "out.npz").exists()


def test_checkout_of_the_empty_state_writes_a_manifest(mmsb, path, tmp_path):
    assert mmsb("checkout", path, "--version", 0, "--out", tmp_path / "out.npz").code == 0
    manifest, arrays = load(tmp_path / "out.npz")
    assert (manifest["version"], arrays) == (0, {})


@pytest.mark.parametrize("name", ["out.npz", "out"])
def test_checkout_over_something_needs_force(mmsb, path, tmp_path, name):
    out = tmp_path / name
    assert mmsb("checkout", path, "--version", 1, "--out", out).code == 0
    refused = mmsb("checkout", path, "--version", 2, "--out", out)
    assert refused.code == 3
    assert "exists already" in refused.err
    assert load(out)[0]["version"] == 1
    assert mmsb("checkout", path, "--version", 2, "--out", out, "--force").code == 0
    assert load(out)[0]["version"] == 2


def test_checkout_by_force_leaves_other_files_alone(mmsb, path, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert mmsb("checkout", path, "--out", tmp_path / "out", "--force").code == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_checkout_where_the_kind_of_file_does_not_fit_exits_3(mmsb, path, tmp_path):
    (tmp_path / "dir.npz").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("dir.npz", "file", "nowhere/out.npz"):
        assert mmsb("checkout", path, "--out", tmp_path / name, "--force").code == 3
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("target", ["out.npz", "out"])
def test_checkout_of_strange_names_stays_in_its_place(mmsb, recorder, tmp_path, target):
    arrays = {name: np.array([i]) for i, name in enumerate(STRANGE)}
    recorder.commit(arrays)
    before = set(tmp_path.iterdir())
    ran = mmsb("checkout", recorder.path, "--out", tmp_path / target)
    assert ran.code == 0, ran.err
    assert set(tmp_path.iterdir()) - before == {tmp_path / target}
    manifest, found = load(tmp_path / target)
    assert_same(found, arrays)
    members = [entry["member"] for entry in manifest["arrays"].values()]
    assert members == [f"@{i}.npy" for i in range(1, len(STRANGE) + 1)]


def test_checkout_of_one_version_twice_writes_the_same_bytes(mmsb, path, tmp_path):
    for name in ("a.npz", "b.npz"):
        mmsb("checkout", path, "--version", 1, "--out", tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_checkout_cut_short_in_a_directory_leaves_no_manifest(mmsb, path, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert mmsb("checkout", path, "--version", 1, "--out", out).code == 0

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    assert mmsb("checkout", path, "--version", 2, "--out", out, "--force").code == 3
    assert not (out / "mmsb.json").exists()


def test_checkout_onto_a_failing_disk_exits_3_and_keeps_what_was_there(
    mmsb, path, tmp_path, monkeypatch
):
    out = tmp_path / "out.npz"
    out.write_bytes(b"before")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    ran = mmsb("checkout", path, "--out", out, "--force")
    assert ran.code == 3
    assert "No space left on device" in ran.err
    assert out.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir() if "draft" in entry.name] == []
