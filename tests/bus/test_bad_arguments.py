"""Every public call of a bus with every kind of bad argument: an error of the library's own.

A call is fine, with one argument changed at a time. What that may do is answer, or raise an error
of the exception tree, `TypeError` or `ValueError`, that the library raised on purpose.
"""

import functools
import inspect
import linecache
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb

TREE = {"w": np.ones(3, np.float32), "n": 1}


class Anything:
    """A class that anything makes an object of."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass


class NoRepr:
    """Something of no use anywhere, that cannot even say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


BAD: dict[str, Any] = {
    "None": None,
    "True": True,
    "a negative number": -1,
    "a number that nothing has": 2**40,
    "more than 64 bits": 2**70,
    "more digits than Python shows": 10**5000,
    "a float": 1.5,
    "nan": float("nan"),
    "an empty text": "",
    "half a character": "caf\udce9",
    "what no name of a file is": "\ud800",
    "NUL": "\0",
    "a long text": "x" * 70_000,
    "a wrong text": "no such thing",
    "bytes": b"bytes",
    "an empty list": [],
    "a list of what fits nowhere": [object(), None, 1.5],
    "an empty dict": {},
    "an object": object(),
    "no repr": NoRepr(),
    "a class": Anything,
    "an array": np.zeros((2, 2)),
    "an array of JAX": jnp.zeros(2, jnp.int32),
    "a function": lambda *arguments: None,
    "ShapeDtypeStruct": jax.ShapeDtypeStruct((3,), np.float32),
}


def double(w: jax.Array) -> jax.Array:
    return w * 2


def begin() -> mmsb.Bus:
    bus = mmsb.open()
    bus.create("x", (4,))
    bus.create("y", (4,))
    bus.commit(TREE, step=1, note={"loss": 1.0})
    bus.commit(TREE | {"w": np.zeros(3, np.float32)}, step=2, extra={"next": 2})
    bus.derive("twice", ["w"], double, when="read")
    bus.link("x", "y", kind="device_sync")
    bus.tag("here")
    return bus


CALLS: dict[str, dict[str, Any]] = {
    "apply": {"delta": None, "step": 1, "source": "s", "note": 1, "layout": None},
    "batch": {"step": 1, "source": "s", "note": 1},
    "checkout": {"version": 1, "arrays": ["w"], "like": TREE, "missing": "keep"},
    "at": {"step": 1, "lineage": "all"},
    "at a time": {"time_ns": 2**62},
    "checkout by step": {"step": 1, "lineage": "living"},
    "checkout by time": {"time_ns": 2**62},
    "bisect": {"bad": lambda tree: not tree["w"].any(), "like": TREE, "since": 1, "until": 2,
               "rerun": lambda s, e: (s, e)},
    "clone": {"name": "x", "copy": "z", "source": "s"},
    "commit": {"tree": TREE, "step": 1, "source": "s", "note": 1, "extra": 1, "wait": True,
               "busy": "skip", "save": True, "structure": "same"},
    "compact": {"keep_since": 2, "dry_run": True},
    "create": {"name": "z", "shape": (2,), "dtype": "int8"},
    "create by bytes": {"name": "z", "nbytes": 4},
    "delete": {"name": "x", "source": "s"},
    "derive": {"name": "sum", "inputs": ["w"], "function": jnp.sum, "when": "read",
               "equal": "bytes", "pagewise": False, "source": "s"},
    "diff": {"old": 1, "new": 2, "other": None},
    "export": {"since": 1, "path": None},
    "extend": {"log": None, "steps": [], "notes": [], "source": "s", "layout": None},
    "extend_stacked": {"states": {"w": np.ones((2, 3), np.float32), "n": np.arange(2)},
                       "steps": [1, 2], "notes": {"loss": np.ones(2)}, "extras": [1, None],
                       "source": "s"},
    "extra": {"version": 1},
    "annotate": {"ref": 1, "note": {"accuracy": 1}},
    "first": {"where": ["w"], "lineage": "all"},
    "notes": {"name": "loss", "lineage": "all"},
    "first_divergence": {"other": None},
    "first_nonfinite": {"arrays": ["w"]},
    "follow": {"after": 0, "timeout": 0.0, "poll_s": 0.001},
    "fork": {"path": None, "ref": 1, "share": "never"},
    "fork by version": {"path": None, "version": 1},
    "history": {"array": "w"},
    "import_": {"source": None},
    "link": {"parent": "x", "child": "y", "kind": "compiler", "source": "s"},
    "log": {"array": "w", "source": "s", "since": 0, "until": 1, "start_ns": 0, "end_ns": 1},
    "move": {"arrays": ["w"], "place": "pinned_host"},
    "page_versions": {"name": "w"},
    "propagate": {"source": "s"},
    "read": {"name": "w"},
    "resize": {"name": "x", "shape": (2,), "dtype": "int8", "source": "s"},
    "resize by bytes": {"name": "x", "nbytes": 4},
    "check_replay": {"step": lambda s, e: (s, e), "like": TREE, "steps": 1, "extra": 1},
    "rerun": {"step": lambda s, e: (s, e), "like": TREE, "to": 2, "extra": 1, "check": False},
    "resume": {"state": TREE, "extra": 1, "at": 1, "missing": "keep", "cast": True,
               "rename": {"w": "w"}},
    "resume_or_init": {"init": lambda: TREE, "extra": 1, "cast": True, "rename": {"w": "w"}},
    "warmup": {"like": TREE},
    "publish": {"path": "weights", "arrays": "w", "rename": {"w": "weight"}, "anchor_every": 2,
                "encoding": "xor", "config": "."},
    "to_safetensors": {"path": "w.safetensors", "ref": 1, "arrays": ["w"],
                       "rename": {"w": "weight"}},
    "revert_to": {"ref": 1, "extra": "now", "source": "s", "note": 1},
    "subscribe": {"kind": "commit", "handler": print, "where": "w"},
    "tag": {"name": "there", "version": 1},
    "to_orbax": {"path": None, "refs": [1], "arrays": ["w"], "like": {"w": TREE["w"]}},
    "to_orbax by step": {"path": None, "steps": [1]},
    "unlink": {"parent": "x", "child": "y", "kind": "device_sync", "source": "s"},
    "untag": {"name": "here"},
    "verify": {"progress": None, "deep": False, "derive": False},
    "write": {"name": "x", "value": np.ones(4, np.float32), "step": 1, "source": "s", "note": 1},
}  # fmt: skip
WITHOUT_ARGUMENTS = {
    "close", "derived", "reset_stats", "snapshot", "stale", "stats", "sync", "tags", "tree",
}  # fmt: skip
OPEN = {"path": None, "mode": "a", "page_bytes": 256, "durability": "os", "snapshots": True,
        "shadow": "bytes", "memory_kind": "device", "save": None, "salvage": False}  # fmt: skip


def arguments_of(name: str, bus: mmsb.Bus) -> dict[str, Any]:
    """Arguments with which the call is fine."""
    arguments = dict(CALLS[name])
    if name == "apply":
        arguments["delta"] = mmsb.Delta.empty()
    if name == "import_":
        arguments["source"] = bus.export(0)
    if name.startswith("to_orbax"):
        arguments["path"] = tempfile.mkdtemp()
    if name == "first_divergence":
        arguments["other"] = bus
    if name == "extend":
        arguments["log"] = mmsb.TLog.empty(2, 2)
    return arguments


def judge(call: Callable[[], Any], what: str) -> None:
    """Make a call; what it raises must be raised by the library, on purpose."""
    try:
        found = call()
        if isinstance(found, Iterator):
            next(found, None)
    except Exception as raised:
        error = raised
    else:
        return
    assert isinstance(error, (mmsb.MMSBError, TypeError, ValueError)), f"{what}: {error!r}"
    assert not isinstance(error, UnicodeError), f"{what}: {error!r}"
    place = error.__traceback__
    assert place is not None
    while place.tb_next is not None:
        place = place.tb_next
    path, line = place.tb_frame.f_code.co_filename, place.tb_lineno
    source = "".join(linecache.getline(path, n) for n in range(line - 1, line + 1))
    assert "/mmsb_jax/" in path, f"{what}: {error!r} of {path}:{line}"
    assert "raise " in source, f"{what}: {error!r} of {path}:{line}, {source.strip()}"
    assert len(str(error)) > 20, f"{what}: {error!r}"


def test_table_has_every_public_call_and_parameter():
    calls = {
        name: inspect.signature(getattr(mmsb.Bus, name)).parameters.keys() - {"self", "options"}
        for name in dir(mmsb.Bus)
        if not name.startswith("_") and callable(getattr(mmsb.Bus, name))
    }
    table: dict[str, set[str]] = {name: set() for name in WITHOUT_ARGUMENTS}
    for name, arguments in CALLS.items():
        table.setdefault(name.split(" ")[0], set()).update(arguments)
    assert table == calls


@pytest.mark.parametrize("name", CALLS)
def test_call_is_fine(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bus = begin()
    getattr(bus, name.split(" ")[0])(**arguments_of(name, bus))


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, parameter) for name, arguments in CALLS.items() for parameter in arguments],
)
def test_bad_argument_is_refused_in_the_library_s_words_and_the_bus_goes_on(
    name, parameter, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # some of what is bad elsewhere is the name of a file
    bus = begin()
    for bad, value in BAD.items():
        arguments = arguments_of(name, bus) | {parameter: value}
        newest, method = bus.version, getattr(bus, name.split(" ")[0])
        judge(functools.partial(method, **arguments), f"{parameter} = {bad}")
        if bus.version != newest:
            assert bus.verify(), bad
            bus = begin()
    newest = bus.version
    assert bus.commit(TREE).version == newest + 1
    assert bus.verify()


def opened(arguments: dict[str, Any]) -> None:
    mmsb.open(**arguments).close()


def updated(arguments: dict[str, Any], frames: Any) -> None:
    mmsb.Replica(**arguments).update(frames)


@pytest.mark.parametrize("parameter", OPEN)
def test_open_refuses_bad_arguments_in_the_library_s_words(parameter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for bad, value in BAD.items():
        judge(functools.partial(opened, OPEN | {parameter: value}), f"{parameter} = {bad}")


@pytest.mark.parametrize("parameter", ["source", "like", "arrays", "frames"])
def test_replica_refuses_bad_arguments_in_the_library_s_words(parameter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = begin().export()
    for bad, value in BAD.items():
        given = {"source": frames, "like": TREE, "arrays": None, "frames": None}
        given[parameter] = value
        taken = given.pop("frames")
        judge(functools.partial(updated, given, taken), f"{parameter} = {bad}")
