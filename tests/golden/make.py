"""Makes the golden logs and streams of format 1: small ones, and what every version holds.

``python -m tests.golden.make`` makes what is missing in ``tests/golden/v1`` and leaves what is
there: a golden log is made once and kept, so that every later version can show that it still reads
it. (A change of the format before its release makes it anew; a change after that makes another
one, ``v2``.)

What is expected comes from a model of dictionaries and bytes that is kept beside the log, not from
reading it back; the chain and the digest alone are taken from the writer.
"""

import base64
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import numpy.random  # here, not when a log is made: it asks for random bytes

from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.record import DIGESTS, CommitRecord
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.transfer.stream import write_joining_stream, write_stream
from tests.store._logs import FIRST_TIME_NS, Expected, Scribe

FORK_VERSION = 8

Version = dict[str, Any]
"""What one version holds, in JSON's words: what the files ``….json`` of a golden folder list."""

DROPPED = ("extra", "arrays", "constants")
"""What a compaction drops of a version."""


def encode(raw: bytes | None) -> str | None:
    """Bytes as JSON has them: in base 64."""
    return None if raw is None else base64.b64encode(raw).decode()


def describe(scribe: Scribe, dropped: Collection[int] = ()) -> list[Version]:
    """What every version of a log must hold, from the model beside it; oldest first.

    Of the versions in ``dropped`` it is what their commits said.
    """
    versions = [_describe(scribe, v, scribe.history[v]) for v in range(1, len(scribe.history))]
    return [said_of(v) if v["version"] in dropped else v for v in versions]


def said_of(version: Version) -> Version:
    """What is left of a version when a compaction has dropped its data."""
    return {key: value for key, value in version.items() if key not in DROPPED}


def _describe(scribe: Scribe, version: int, expected: Expected) -> Version:
    record = scribe.log.record(version)
    described = _described(scribe, version, expected, record)
    if record.flags & DIGESTS:
        rows = record.digests.tolist()
        described["digests"] = {scribe.log.name_of(i): numbers for i, *numbers in rows}
    if expected.saved:
        return described
    if len(record.aside):
        held = sorted(expected.there().items())
        described["aside"] = {name: encode(content) for name, content in held}
    return said_of(described) | {"extra": described["extra"]}


def _described(scribe: Scribe, version: int, expected: Expected, record: CommitRecord) -> Version:
    return {
        "version": version,
        "step": expected.step,
        "time_ns": expected.time_ns,
        "source": expected.source,
        "note": expected.note,
        "extra": encode(expected.extra),
        "changed": list(expected.changed),
        "arrays": {
            name: {
                "id": held.id,
                "kind": held.kind,
                "dtype": held.dtype,
                "shape": list(held.shape),
                "member": held.member,
                "bytes": encode(held.content),
                "pages": held.pages,
            }
            for name, held in sorted(expected.arrays.items())
        },
        "constants": expected.constants,
        "chain": scribe.log.chain_after(version).hex(),
        "state_digest": f"{record.state_digest:032x}",
    }


def reopen(scribe: Scribe, folder: Path) -> Scribe:
    """The log in ``folder``, opened to write on; ``scribe`` was closed, or is as good as dead."""
    return Scribe(DiskFiles(folder), history=scribe.history)


def fork(scribe: Scribe, version: int, target: Path) -> Scribe:
    """A fork behind ``version``, opened to write on."""
    fork_log(scribe.log, version, DiskFiles(target))
    return Scribe(DiskFiles(target), history=scribe.history[: version + 1])


def write_story(root: Path, fork_root: Path) -> tuple[Scribe, Scribe]:
    """A log in which everything that format 1 can say is said, and a fork of it; both closed."""
    noise = np.random.default_rng(1)
    scribe = Scribe(DiskFiles(root))
    scribe.create("params/w", (8, 12)).create("params/b", (5,), ml_dtypes.bfloat16)
    scribe.create("step", (), np.int64, "int").create("key", (2,), np.uint32, "key:threefry2x32")
    scribe.create("odd~1name/é", (2,), "S3", "numpy").create("nothing", (0, 3), np.float16)
    scribe.create("table", (600,), np.uint8, member=False)
    weights = np.linspace(-1, 1, 96, dtype=np.float32)
    scribe.write("params/w", weights).write("params/b", np.arange(5).astype(ml_dtypes.bfloat16))
    scribe.write("key", np.array([0, 42], np.uint32))
    scribe.write("odd~1name/é", np.array([b"abc", b"de"]))
    scribe.constant("activation", "f:jax.nn.relu").constant("bias", "n:")
    scribe.constant("label", "s:first é").constant("seed", f"i:{2**80}")
    scribe._draft.extra_is_json = True
    scribe.commit(0, "train", '{"loss":2.5}', b'{"epoch":0}')

    weights = weights.copy()
    weights[40] = -0.0
    scribe.write("params/w", weights).write("step", np.array(1)).commit(1, "train")
    scribe.commit(source="nothing changed")
    table = np.zeros(600, np.uint8)
    table[[3, 4, 520, 599]] = [1, 2, 255, 4]
    scribe.write("table", table).commit(-7)
    weights = weights.view(np.uint32) ^ noise.integers(1, 200, 96, np.uint32)
    scribe.write("params/w", weights).commit(2, "train")
    scribe.write("params/w", np.frombuffer(noise.bytes(384), np.uint8))
    scribe.commit(3, "train", extra=bytes(range(256)) * 3)
    scribe.delete("params/b").resize("table", (700,)).create("raw", (7,), np.uint8, member=False)
    table = np.concatenate([table, np.full(100, 9, np.uint8)])
    scribe.write("table", table).write("raw", np.arange(7, dtype=np.uint8)).commit(4, "edit")
    scribe.snapshot()

    table[100:240] = 77
    scribe.write("table", table).commit(5, "train", extra=b"")
    scribe.constant("label", "s:second").constant("bias", None).commit(6)
    scribe = _tear(scribe, root)
    scribe.create("params/b", (2, 2), np.complex64).write("params/b", np.ones(4, np.complex64))
    scribe.commit(7, "edit")
    scribe.resize("table", (3,)).commit(8, "edit")
    scribe = reopen(scribe.close(), root)
    scribe.write("step", np.array(9)).commit(9, "train")
    scribe.close()

    branch = fork(scribe, FORK_VERSION, fork_root)
    branch.write("step", np.array(100)).commit(100, "branch")
    branch = reopen(branch.close(), fork_root)
    branch.delete("raw").commit(101, "branch")
    return scribe, branch.close()


def _tear(scribe: Scribe, root: Path) -> Scribe:
    """The log, opened anew, after a commit that was cut off while it was written."""
    torn = reopen(scribe, root)
    torn.write("table", np.full(700, 200, np.uint8)).commit()
    path = root / torn.log.pieces[-1].segment.name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 40)
    torn.history.pop()
    return reopen(torn, root)


def write_compacted(root: Path) -> Scribe:
    """A log that was compacted twice and went on, with tags and extras; closed.

    The first time version 3 was tagged ``best``, the second time its tag had moved to version 5.
    """
    noise = np.random.default_rng(2)
    scribe = Scribe(DiskFiles(root))
    scribe.create("w", (90,)).create("step", (), np.int64, "int").create("gone", (3,), np.int8)
    scribe.constant("activation", "f:jax.nn.relu")
    for step in range(1, 15):
        if step % 3:
            scribe.patch("w", {7 * step: step})
        else:
            scribe.write("w", noise.random(90, np.float32))
        if step == 4:
            scribe.delete("gone").constant("activation", "f:jax.nn.gelu")
        if step == 9:
            scribe.create("late", (5,), np.int8).patch("late", {3: 9})
        scribe.write("step", np.array(step))
        is_json = scribe._draft.extra_is_json = step == 5
        extra = b'{"epoch":5}' if is_json else b"extra %d" % step if step % 4 == 0 else None
        scribe.commit(10 * step, "train", f'{{"loss":{1 / step}}}', extra)
        match step:
            case 3:
                scribe.writer.append_tags({"first": 2, "best": 3, "wrong": 1})
            case 6:
                scribe.writer.append_tags({"best": 5, "wrong": None})
            case 7:
                compact(scribe.writer, 4)
            case 10:
                scribe.writer.append_tags({"late": 9, "later": 10})
            case 12:
                compact(scribe.writer, 9)
            case 13:
                scribe.writer.append_tags({"later": None, "newest": 13})
        if step in (5, 10):
            scribe.snapshot()
    return scribe.close()


def write_graph(root: Path) -> Scribe:
    """A log with entries of the graph of every kind, as a bus writes them; closed."""
    double = {
        "inputs": ["x"],
        "function": "model.double",
        "fingerprint": "7e0ca56d0895997087bda0f8986ba24e",
        "when": "commit",
        "equal": "bytes",
        "pagewise": True,
        "arrays": ["double"],
        "serial": 0,
    }
    loss = double | {
        "inputs": ["double", "params/*"],
        "function": "model.loss",
        "fingerprint": "1405db6fa636a529b24f5d56f07d6f30",
        "when": "read",
        "equal": "function model.is_close",
        "pagewise": False,
        "arrays": ["loss"],
        "serial": 1,
    }
    extent = double | {
        "inputs": ["double"],
        "function": "model.extent",
        "fingerprint": "00112233445566778899aabbccddeeff",
        "equal": "never",
        "pagewise": False,
        "arrays": ["extent/least", "extent/most"],
        "serial": 2,
    }
    scribe, x = Scribe(DiskFiles(root)), np.arange(40, dtype=np.float32)
    scribe.create("x", (40,)).create("params/w", (8,)).create("params/b", (3,)).create("é", (2,))
    scribe.create("step", (), np.int64, "int").constant("activation", "f:jax.nn.relu")
    scribe.write("x", x).write("params/b", np.ones(3, np.float32)).commit(0, "train")
    scribe.create("double", (40,), member=False).write("double", 2 * x)
    scribe.constant("\0derive/double", _entry(double)).commit(source="derive")
    scribe.create("loss", (), member=False).constant("\0derive/loss", _entry(loss))
    scribe.constant("\0stale/loss", "new").commit(source="derive")
    scribe.create("extent/least", (), member=False).create("extent/most", (), member=False)
    scribe.write("extent/most", np.float32(78)).constant("\0derive/extent", _entry(extent))
    scribe.commit(source="derive")
    scribe.constant('\0link/["params/w","params/b"]device_sync', "device_sync")
    scribe.constant('\0link/["params/b","double"]control', "control")
    scribe.constant('\0link/["\\u00e9","x"]compiler', "compiler").commit(source="link")

    x[3] = -1  # the mode is deferred: what follows is marked
    scribe.write("x", x).constant("\0stale/double", "dirty").constant("\0stale/extent", "pending")
    scribe.commit(1, "train")
    scribe.snapshot()
    scribe.write("double", 2 * x).write("extent/least", np.float32(-2))
    scribe.constant("\0stale/double", None).constant("\0stale/extent", None).commit()
    scribe.write("loss", np.float32(7)).constant("\0stale/loss", None).commit()
    scribe.delete("extent/least").delete("extent/most").constant("\0derive/extent", None)
    scribe.constant('\0link/["params/w","params/b"]device_sync', None).commit(source="edit")
    scribe.write("x", x + 1).constant("\0stale/double", "dirty").constant("\0stale/loss", "pending")
    scribe.commit(2, "train")
    return scribe.close()


def write_trees(root: Path) -> Scribe:
    """A log of trees with what is no leaf and weakly typed arrays, as a bus writes them; closed.

    The first version is of a log that is older than these.
    """
    scribe = Scribe(DiskFiles(root))
    scribe.create("model/w", (40,)).create("lr", ()).create("step", (), np.int64, "int")
    scribe.constant("model/act", "f:builtins.pow")
    scribe.write("model/w", np.arange(40, dtype=np.float32)).write("lr", np.float32(0.1))
    scribe.commit(0, "train")
    statics = {
        "model/depth": "2",
        "model/rate": "0.1",
        "model/name": '"\\u00e9\\udce9"',
        "model/act": "partial(function builtins.pow, exp=3)",
        "model/dtype": "dtype bfloat16",
        "model/table": "float32[2] 36ba7543ecc24ec707a5562ea62ed1b2",
        "rest/list": "[]",
        "rest/none": "EmptyState",
    }
    scribe.constant("\0static", "1").constant("\0weak/lr", "1")
    for path, text in statics.items():
        scribe.constant(f"\0static/{path}", text)
    scribe.write("step", np.array(1)).commit(1, "train")
    scribe.constant("\0weak/lr", None).commit(2, "train")
    scribe.snapshot()
    scribe.constant("\0weak/lr", "1").constant("\0static/model/depth", "3")
    scribe.constant("\0static/rest/list", None).constant("\0static/rest", "{}")
    scribe.write("lr", np.float32(0.05)).commit(3, "edit")
    scribe.create("deep/x", (3,)).constant("\0weak/deep/x", "1").commit(4, "edit")
    scribe.delete("deep/x").constant("\0weak/deep/x", None).commit(5, "edit")
    return scribe.close()


def write_groups(root: Path) -> Scribe:
    """A log of small arrays that are written whole, of every unit, sizes and a resize; closed."""
    noise = np.random.default_rng(3)
    scribe = Scribe(DiskFiles(root))
    scribe.create("step", (), np.int64, "int")
    shapes = {"w": (31, 7), "b": (5,), "scale": (1100,), "empty": (0,)}
    dtypes = {"f": np.float32, "h": ml_dtypes.bfloat16, "b": np.uint8, "d": np.float64}
    values = {}
    for kind, dtype in dtypes.items():
        for name, shape in shapes.items():
            scribe.create(f"{kind}/{name}", shape, dtype)
            values[f"{kind}/{name}"] = (10 + noise.standard_normal(shape)).astype(dtype)
    for step in range(1, 9):
        for name, value in values.items():
            moved = value.astype("f8") * (1 + 1e-3 * noise.standard_normal(value.shape))
            values[name] = moved.astype(value.dtype)
            if step != 5 or name.startswith("f"):  # a commit of some of them
                scribe.write(name, values[name])
        if step == 4:
            values["f/w"] = values["f/w"][:20]
            scribe.resize("f/w", (20, 7)).write("f/w", values["f/w"])
        if step == 7:
            scribe.write("f/w", np.zeros((20, 7), "f4"))
        scribe.write("step", np.array(step)).commit(step, "train")
        if step == 6:
            scribe.snapshot()
    return scribe.close()


def write_unsaved(root: Path) -> Scribe:
    """A log of which some commits hold digests alone, and which went back once; closed."""
    w, b = np.linspace(-1, 1, 300, dtype=np.float32), np.arange(5).astype(ml_dtypes.bfloat16)
    scribe = Scribe(DiskFiles(root))
    scribe.create("params/w", (300,)).create("params/b", (5,), ml_dtypes.bfloat16)
    scribe.create("step", (), np.int64, "int").create("still", (3,), np.uint8)
    scribe.write("params/w", w).write("params/b", b).commit(0, "train", extra=b"zero")
    scribe.digests({"params/w": w + 1, "step": np.array(1)}, 1, note='{"loss":2}', extra=b"one")
    with_nan = np.where(np.arange(300) % 100 == 7, np.nan, w).astype(np.float32)
    scribe.digests({"params/w": with_nan, "params/b": b + b, "step": np.array(2)}, 2)
    scribe.write("params/w", with_nan).write("step", np.array(3))
    scribe.commit(3, "train", nonfinite={"params/w": 3, "step": 0})
    scribe.digests({"params/w": w, "params/b": b + b, "step": np.array(4)}, 4)
    scribe.write("params/w", w + 2).write("step", np.array(1))  # on from version 1
    scribe.constant("\0lineage", "[[2,5]]").commit(1, extra=b"zero", nonfinite={})
    scribe.snapshot()
    scribe.digests({}, 2)
    scribe.patch("params/w", {17: 99}).commit(3, extra=b"three", nonfinite={})
    return scribe.close()


def write_parts(root: Path) -> Scribe:
    """A log of which some commits were saved in part, one by a writer that began anew; closed."""
    w, b = np.linspace(-1, 1, 300, dtype=np.float32), np.arange(5).astype(ml_dtypes.bfloat16)
    big = np.arange(30_000, dtype=np.uint32)
    scribe = Scribe(DiskFiles(root))
    scribe.writer.process = {"JAX": "0.10.2", "devices": "8 TPU v4", "XLA_FLAGS": ""}
    scribe.create("params/w", (300,)).create("params/b", (5,), ml_dtypes.bfloat16)
    scribe.create("opt/big", (30_000,), np.uint32).create("step", (), np.int64, "int")
    scribe.write("params/w", w).write("params/b", b).write("opt/big", big).commit(0)
    step, params = (lambda n: {"step": np.array(n)}), ("params/w", "params/b")
    scribe.digests({"params/w": w + 1, "opt/big": big + 1} | step(1), 1, aside=["params/w"])
    scribe.digests({"opt/big": big * 7} | step(2), 2, extra=b"two", aside=["opt/big", "step"])
    scribe.digests({"params/w": w, "params/b": b + b} | step(3), 3, aside=params)
    touched = w.copy()
    touched[[3, 77]] = 5
    scribe.digests({"params/w": touched, "opt/big": big ^ 9} | step(4), 4, aside=["params/w"])
    scribe.digests(step(5), 5)
    scribe = scribe.reopen()
    scribe.writer.process = {"JAX": "0.11.0", "devices": "1 cpu"}
    touched[4] = np.nan
    scribe.digests({"params/w": touched} | step(6), 6, aside=["params/w"])
    scribe.write("params/w", w + 2).write("step", np.array(7)).commit(7, nonfinite={})
    scribe.digests({"params/w": w + 3} | step(8), 8, aside=["params/w"])
    scribe.write("opt/big", big).commit(9, nonfinite={})
    return scribe.close()


def _entry(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _make_contents(root: Path) -> dict[str, Any]:
    """The first: a log and a fork of it."""
    scribe, branch = write_story(root / "whole", root / "fork")
    return {"whole": describe(scribe), "fork": describe(branch)[FORK_VERSION:]}


def _make_compacted(root: Path) -> dict[str, Any]:
    scribe = write_compacted(root / "compacted")
    return {
        "kept_since": 9,
        "kept": [2, 5, 8],
        "tags": {"best": 5, "first": 2, "late": 9, "newest": 13},
        "compacted": describe(scribe, dropped=(1, 3, 4, 6, 7)),
    }


def _make_graph(root: Path) -> dict[str, Any]:
    return {"graph": describe(write_graph(root / "graph"))}


def _make_trees(root: Path) -> dict[str, Any]:
    return {"trees": describe(write_trees(root / "trees"))}


def _make_groups(root: Path) -> dict[str, Any]:
    return {"groups": describe(write_groups(root / "groups"))}


def _make_unsaved(root: Path) -> dict[str, Any]:
    return {"unsaved": describe(write_unsaved(root / "unsaved"))}


def _make_parts(root: Path) -> dict[str, Any]:
    return {"parts": describe(write_parts(root / "parts"))}


def _make_streams(root: Path) -> dict[str, Any]:
    """All of a log; a snapshot of its fork and what is behind it; and what is behind that."""
    whole, branch = (Log(DiskFiles(root / name), name) for name in ("whole", "fork"))
    made = {
        "whole": write_stream(whole, 0, 12),
        "late": write_joining_stream(branch, FORK_VERSION, FIRST_TIME_NS),
        "behind": write_stream(branch, FORK_VERSION, 10),
    }
    (root / "streams").mkdir()
    for name, buffers in made.items():
        (root / "streams" / name).write_bytes(b"".join(buffers))
    return {
        "whole": {"log": "whole", "since": 0, "last": 12, "has_snapshot": False},
        "late": {"log": "fork", "since": 6, "last": 8, "has_snapshot": True},
        "behind": {"log": "fork", "since": 8, "last": 10, "has_snapshot": False},
    }


MAKERS = {
    "contents": (_make_contents, 2),
    "compacted": (_make_compacted, 4),
    "graph": (_make_graph, 5),
    "streams": (_make_streams, 6),
    "trees": (_make_trees, 7),
    "groups": (_make_groups, 8),
    "unsaved": (_make_unsaved, 9),
    "parts": (_make_parts, 10),
}
"""What makes logs or streams, and returns what ``NAME.json`` says of them; the first log's id."""


def make_golden(root: Path, name: str) -> None:
    """Make one of `MAKERS` in the folder ``root``; the streams need the logs of ``contents``."""
    make, first_id = MAKERS[name]
    clock = mock.patch("time.time_ns", return_value=FIRST_TIME_NS)
    with mock.patch("os.urandom", _ids(first_id)), clock:
        contents = make(root)
    (root / f"{name}.json").write_text(_as_json(contents))


def read_contents(folder: Path, name: str) -> dict[str, Any]:
    """What ``NAME.json`` of a golden folder says."""
    return json.loads((folder / f"{name}.json").read_text())


def read_golden(folder: Path) -> dict[str, list[Version]]:
    """What the logs of a golden folder hold, by version."""
    contents = read_contents(folder, "contents")
    whole, own = contents["whole"], contents["fork"]
    names = ("compacted", "graph", "trees", "groups", "unsaved", "parts")
    later = {name: read_contents(folder, name)[name] for name in names}
    return {"whole": whole, "fork": whole[: own[0]["version"] - 1] + own} | later


def _as_json(contents: dict[str, Any]) -> str:
    """A line a version."""
    parts = (f"{json.dumps(key)}: {_value_as_json(value)}" for key, value in contents.items())
    return "{" + ",\n".join(parts) + "}\n"


def _value_as_json(value: Any) -> str:
    if not isinstance(value, list) or not isinstance(value[0], dict):
        return json.dumps(value)
    rows = (json.dumps(version, ensure_ascii=False) for version in value)
    return "[\n" + ",\n".join(rows) + "\n]"


def _ids(first: int) -> Callable[[int], bytes]:
    """Ids that are the same each time."""
    made = iter(range(first, 256))
    return lambda size: bytes([next(made)]) * size


def main() -> None:
    """Make what is missing of ``v1`` beside this file."""
    root = Path(__file__).parent / "v1"
    for name in MAKERS:
        if (root / f"{name}.json").exists():
            print(f"{name} is there already, and is never made again")
        else:
            make_golden(root, name)
            print(f"{name} is made")


if __name__ == "__main__":
    main()
