"""Golden logs: small logs of every format, made once, that every later version still reads."""

import functools
import shutil
from pathlib import Path
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.chunk import GROUP_CODINGS, Coding
from mmsb_jax._store.log.in_force import process_at
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.writer.writer import LogWriter
from tests.golden.compare import (
    check_library,
    check_reader,
    codings,
    read_by_reader,
    read_stream_by_reader,
)
from tests.golden.make import (
    MAKERS,
    Version,
    encode,
    make_golden,
    read_contents,
    read_golden,
    said_of,
)
from tests.store._logs import PAGE_BYTES, Here
from tools import format_reader as reader

FOLDERS = sorted(Path(__file__).parent.glob("v*"))
V1 = Path(__file__).parent / "v1"
LOGS = ("whole", "fork", "compacted", "graph", "trees", "groups", "unsaved", "parts")
STREAMS = ("whole", "late", "behind")

GOLDEN_LOGS = [
    pytest.param(folder, name, id=f"{folder.name}-{name}") for folder in FOLDERS for name in LOGS
]
in_each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_golden_logs_made_now_hold_the_same(tmp_path: Path):
    for name in MAKERS:
        make_golden(tmp_path, name)
        made, golden = read_contents(tmp_path, name), read_contents(V1, name)
        for versions in (*made.values(), *golden.values()):
            for version in versions if isinstance(versions, list) else ():
                if isinstance(version, dict):
                    del version["chain"]  # it says also how the bytes were coded
        assert made == golden


@pytest.mark.parametrize(("folder", "name"), GOLDEN_LOGS)
def test_golden_log_read_by_the_library_gives_every_version(folder: Path, name: str):
    check_library(folder / name, read_golden(folder)[name])


@pytest.mark.parametrize("name", LOGS)
def test_golden_log_read_by_the_independent_reader_gives_every_version(name: str):
    check_reader(V1 / name, read_golden(V1)[name])


@pytest.mark.parametrize("name", ["whole", "fork"])
def test_golden_log_has_every_coding_and_a_snapshot(name: str):
    log = reader.ReadLog(V1 / name)
    assert codings(log) == set(Coding) - GROUP_CODINGS
    assert log.snapshots() == [7]
    assert log.commits[0].flags == reader.EXTRA_IS_JSON | reader.HAS_STEP | (
        reader.STRUCTURE_CHANGED
    )


def test_golden_log_of_groups_has_both_codings():
    assert codings(reader.ReadLog(V1 / "groups")) >= GROUP_CODINGS


def test_golden_log_says_which_process_made_what():
    first = {"JAX": "0.10.2", "devices": "8 TPU v4", "XLA_FLAGS": ""}
    second = {"JAX": "0.11.0", "devices": "1 cpu"}
    (walk,) = reader.ReadLog(V1 / "parts").walks
    assert walk.processes == {1: first, 7: second}
    log = Log(DiskFiles(V1 / "parts"), "parts")
    assert [process_at(log, v) for v in range(1, 11)] == [first] * 6 + [second] * 4
    assert process_at(Log(DiskFiles(V1 / "whole"), "whole"), 3) == {}


@pytest.mark.parametrize(("folder", "name"), GOLDEN_LOGS)
def test_golden_log_goes_on_in_a_copy(folder: Path, name: str, tmp_path: Path):
    root = shutil.copytree(folder / name, tmp_path / name)
    _commit_once_more(root)
    *before, newest = read_by_reader(root)
    assert before == read_golden(folder)[name]
    check_library(root, [*before, newest])
    assert newest["arrays"]["step"].pop("bytes") == encode(bytes([77] * 8))
    assert newest["changed"] == ["step"]
    for version in (newest, before[-1]):
        version["arrays"]["step"] |= {"bytes": "", "pages": []}
    assert newest["arrays"] == before[-1]["arrays"]
    assert newest["constants"] == before[-1]["constants"]


def _commit_once_more(root: Path) -> None:
    files = DiskFiles(root)
    log = Log(files, root.name)
    writer = LogWriter(log)
    state = log.state(log.version, page_bytes=PAGE_BYTES)
    raw = np.full(8, 77, np.uint8)
    Head(state, writer, PAGE_BYTES, Here).commit(Draft(contents={state.table.ids["step"]: raw}))
    writer.close()
    files.close()


# Compacted


@in_each_folder
def test_golden_compacted_log_has_what_it_kept(folder: Path):
    kept = _facts(folder)
    log, read = Log(DiskFiles(folder / "compacted"), "log"), reader.ReadLog(folder / "compacted")
    assert {"kept_since": log.kept_since, "kept": list(log.kept), "tags": log.tags()} == kept
    assert read.tags() == kept["tags"]
    compaction = read.manifest.compaction
    assert compaction is not None
    assert (compaction.first_version, compaction.kept) == (kept["kept_since"], kept["kept"])
    assert (compaction.is_cut, len(compaction.archives)) == (True, 2)
    for version in range(1, log.kept_since):
        if version not in log.kept:
            with pytest.raises(mmsb.VersionError, match="were dropped"):
                log.state(version)


def _facts(folder: Path) -> dict[str, Any]:
    contents = read_contents(folder, "compacted")
    return {key: contents[key] for key in ("kept_since", "kept", "tags")}


@in_each_folder
def test_golden_compacted_log_is_compacted_again_in_a_copy(folder: Path, tmp_path: Path):
    root = shutil.copytree(folder / "compacted", tmp_path / "log")
    versions, tags = read_golden(folder)["compacted"], _facts(folder)["tags"]
    log = Log(DiskFiles(root), "log")
    writer = LogWriter(log)
    writer.append_tags({"first": None, "best": 10})
    report = compact(writer, 13)
    writer.close()
    assert report.kept == (9, 10, 12)
    expected = [v if v["version"] in (9, 10, 12, 13, 14) else said_of(v) for v in versions]
    check_library(root, expected)
    assert check_reader(root, expected).tags() == {"best": 10, "late": 9, "newest": tags["newest"]}


# The graph


@in_each_folder
def test_golden_graph_opened_by_a_bus_goes_on(folder: Path, tmp_path: Path):
    def double(x):
        return 2 * x

    def loss(double, params):
        return double[0] + sum(p.sum() for p in params.values())

    with mmsb.open(shutil.copytree(folder / "graph", tmp_path / "log")) as bus:
        found = bus.derived()
        assert found.keys() == {"double", "loss"}
        assert all(derived.is_stale and not derived.is_attached for derived in found.values())
        bus.derive("double", ["x"], double, pagewise=True)
        bus.derive("loss", ["double", "params/*"], loss, when="read")
        x = bus.read("x")
        np.testing.assert_array_equal(bus.read("double"), 2 * x)
        assert float(bus.read("loss")) == 2 * float(x[0]) + 3
        assert not any(derived.is_stale for derived in bus.derived().values())
        assert bus.verify(derive=True)


@in_each_folder
def test_golden_graph_of_an_earlier_version_is_what_it_was(folder: Path):
    with mmsb.open(folder / "graph", mode="r") as reading, reading.fork(version=6) as bus:
        found = bus.derived()
        assert {name: (d.function, d.when, d.inputs, d.arrays) for name, d in found.items()} == {
            "double": ("model.double", "commit", ("x",), ("double",)),
            "loss": ("model.loss", "read", ("double", "params/*"), ("loss",)),
            "extent": ("model.extent", "commit", ("double",), ("extent/least", "extent/most")),
        }
        assert all(derived.is_stale for derived in found.values())
        assert {edge for edge in bus.graph.edges() if edge[2] != "data"} == {
            ("params/w", "params/b", "device_sync"),
            ("params/b", "double", "control"),
            ("é", "x", "compiler"),
        }


# Trees


@flax.struct.dataclass
class _Model:
    w: Any
    act: Any
    depth: int = flax.struct.field(pytree_node=False, default=2)
    rate: float = flax.struct.field(pytree_node=False, default=0.1)
    name: str = flax.struct.field(pytree_node=False, default="é\udce9")
    dtype: Any = flax.struct.field(pytree_node=False, default=jnp.bfloat16)
    table: Any = flax.struct.field(pytree_node=False, default_factory=lambda: np.arange(2.0))


def _golden_tree(table: np.ndarray, **static: Any) -> dict[str, Any]:
    act = functools.partial(pow, exp=3)
    return {
        "model": _Model(jnp.zeros(40), act, table=table, **static),
        "lr": jnp.zeros(()),
        "step": 0,
        "rest": {"list": [], "none": optax.EmptyState()},
    }


@in_each_folder
def test_golden_trees_come_back_with_what_is_no_leaf_and_weak_types(folder: Path, tmp_path: Path):
    table = np.array([0.5, -1], np.float32)
    with mmsb.open(shutil.copytree(folder / "trees", tmp_path / "log")) as bus:
        with pytest.raises(
            mmsb.StructureError, match="model/depth: static 2 in `state`, 3 recorded"
        ):
            bus.resume(_golden_tree(table))
        for version, is_weak in ((1, False), (2, True), (3, False)):
            found = bus.checkout(version=version, like=_golden_tree(table))
            assert found["lr"].weak_type is is_weak
            assert found["model"].depth == 2
        like = _golden_tree(table, depth=4)
        assert bus.checkout(version=1, like=like)["model"].depth == 4  # older than what says it
        with pytest.raises(mmsb.StructureError, match="static 4 in `like`, 2 recorded"):
            bus.checkout(version=2, like=like)
        assert sorted(bus.tree()) == ["lr", "model/w", "step"]
        assert bus.tree()["lr"].weak_type


@in_each_folder
def test_golden_trees_read_by_the_independent_reader_have_statics_and_weak_types(folder: Path):
    states = list(reader.ReadLog(folder / "trees").states())
    assert [state.statics() is None for state in states] == [True, *[False] * 5]
    assert states[1].statics()["model/name"] == '"\\u00e9\\udce9"'
    assert [state.statics()["model/depth"] for state in states[1:]] == ["2", "2", "3", "3", "3"]
    assert [state.weak() for state in states] == [
        set(), {"lr"}, set(), {"lr"}, {"lr", "deep/x"}, {"lr"}
    ]  # fmt: skip


# Streams


@in_each_folder
def test_golden_streams_are_taken_in(folder: Path, tmp_path: Path):
    for names in (["whole"], ["late", "behind"]):
        root = tmp_path / names[0]
        expected = []
        with mmsb.open(root, page_bytes=PAGE_BYTES) as bus:
            for name in names:
                taken = [commit.version for commit in bus.import_(folder / "streams" / name)]
                expected += _versions_in(folder, name)
                assert taken == [version["version"] for version in expected][-len(taken) :]
        check_library(root, expected)
        check_reader(root, expected)
        _commit_once_more(root)
        *before, newest = read_by_reader(root)
        assert before == expected
        check_library(root, [*before, newest])


@in_each_folder
def test_golden_streams_that_a_log_began_with_are_compacted(folder: Path, tmp_path: Path):
    late, *rest = _versions_in(folder, "late") + _versions_in(folder, "behind")
    with mmsb.open(tmp_path / "log", page_bytes=PAGE_BYTES) as bus:
        for name in ("late", "behind"):
            bus.import_(folder / "streams" / name)
        assert bus.compact(keep_since=9).kept == (8,)
    check_library(tmp_path / "log", [said_of(late), *rest])
    check_reader(tmp_path / "log", [said_of(late), *rest])


@pytest.mark.parametrize("name", STREAMS)
def test_golden_stream_read_by_the_independent_reader_gives_every_version(name: str):
    raw, said = (V1 / "streams" / name).read_bytes(), read_contents(V1, "streams")[name]
    stream, before = reader.read_stream(raw), reader.State(page_bytes=PAGE_BYTES)
    assert (stream.since, stream.last) == (said["since"], said["last"])
    assert (stream.state is not None) == said["has_snapshot"]
    if said["since"] and not said["has_snapshot"]:
        before = list(reader.ReadLog(V1 / said["log"]).states())[said["since"] - 1]
    assert read_stream_by_reader(raw, before) == _versions_in(V1, name)


def _versions_in(folder: Path, stream: str) -> list[Version]:
    """What the versions of a stream hold: those of the log that it comes from."""
    said = read_contents(folder, "streams")[stream]
    return read_golden(folder)[said["log"]][said["since"] : said["last"]]
