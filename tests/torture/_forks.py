"""A process that forks while its threads are inside calls of a bus.

``python -m tests.torture._forks BUS FORKS SEED``: each child calls what it should not, one call
after the other; each is refused or done, in time. The parent goes on unharmed. Says what it did.
"""

import faulthandler
import itertools
import os
import random
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mmsb_jax as mmsb

PATIENCE_S = 10  # of a busy machine; a call that hangs never ends
MOST_CALLS = 100  # of a thread, a fork: what is verified must not grow without end


def state(number: int) -> dict[str, Any]:
    return {"w": np.full(2_000, number, np.float32), "n": number}


def inside(bus: mmsb.Bus, path: Path | None) -> dict[str, Callable[[int], Any]]:
    """What a thread of the parent is inside of."""

    def with_batch(n: int) -> None:
        with bus.batch():
            bus.write("raw", np.full(8, n % 256, np.uint8))

    calls: dict[str, Callable[[int], Any]] = {
        "commit": lambda n: bus.commit(state(n)),
        "commit wait=False": lambda n: bus.commit(state(n), wait=False).result(),
        "batch": with_batch,
        "sync": lambda n: bus.sync(),
        "snapshot": lambda n: bus.snapshot(),
        "tag": lambda n: bus.tag("t"),
        "compact": lambda n: bus.compact(keep_since=max(1, bus.version - 3)),
        "fork": lambda n: bus.fork().close(),
        "export": lambda n: bus.export(),
        "verify": lambda n: bus.verify(),
        "checkout": lambda n: (bus.checkout(), bus.tree(), list(bus.log())),
        "stats": lambda n: (bus.stats(), bus.layout, bus.tags()),
        "subscribe": lambda n: bus.subscribe("*", str).cancel(),
    }
    if path is not None:
        reader = mmsb.open(path, mode="r")
        calls["reader"] = lambda n: (reader.version, reader.checkout(), reader.tags())
    return calls


def of_child(
    bus: mmsb.Bus, reader: mmsb.Bus | None, path: Path | None
) -> dict[str, Callable[[], Any]]:
    """What a child calls."""

    def with_bus() -> None:
        with bus:
            pass

    calls: dict[str, Callable[[], Any]] = {
        "commit": lambda: bus.commit(state(0)),
        "commit wait=False": lambda: bus.commit(state(0), wait=False),
        "write": lambda: bus.write("raw", np.zeros(8, np.uint8)),
        "sync": bus.sync,
        "stats": bus.stats,
        "subscribe": lambda: bus.subscribe("*", str),
        "tree": bus.tree,
        "log": lambda: list(bus.log()),
        "checkout": bus.checkout,
        "version": lambda: bus.version,
        "closed": lambda: bus.closed,
        "repr": lambda: repr(bus),
        "tag": lambda: bus.tag("child"),
        "snapshot": bus.snapshot,
        "fork": bus.fork,
        "with": with_bus,
        "close": bus.close,
        "close again": bus.close,
    }
    if reader is not None:
        calls |= {
            "reader: version": lambda: reader.version,
            "reader: log": lambda: list(reader.log()),
            "reader: tags": reader.tags,
            "reader: close": reader.close,
            "a reader of its own": lambda: mmsb.open(path, mode="r").version,
            "a writer of its own": lambda: mmsb.open(path),
        }
    return calls


def run_child(calls: dict[str, Callable[[], Any]], pipe: int) -> None:
    """Call all; the name before each call goes into the pipe, and what went wrong."""
    for name, call in calls.items():
        os.write(pipe, f"{name}\n".encode())
        try:
            call()
        except (mmsb.ClosedError, mmsb.LockedError):
            pass
        except BaseException as error:
            os.write(pipe, f"!{name}: {error!r:.300}\n".encode())
    os.write(pipe, b"done\n")
    os._exit(0)


def fork(calls: dict[str, Callable[[], Any]], during: str) -> list[str]:
    """Fork once; what was wrong."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that of JAX, of forks and threads
        child = os.fork()
    if not child:
        run_child(calls, theirs)
    os.close(theirs)
    told = b""
    end = time.monotonic() + PATIENCE_S
    while select.select([ours], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(ours, 1 << 16)
        if not part:
            break
        told += part
    os.close(ours)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lines = told.decode().splitlines()
    wrong = [f"during {during}: {line[1:]}" for line in lines if line.startswith("!")]
    if lines[-1:] != ["done"]:
        wrong.append(f"during {during}: a child hangs in {lines[-1] if lines else 'the fork'}")
    return wrong


def main() -> None:
    kind, forks, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    faulthandler.enable()
    rng = random.Random(seed)
    path = None if kind == "memory" else Path(tempfile.mkdtemp()) / "run.mmsb"
    bus = mmsb.open(path, page_bytes=128)
    bus.commit(state(0))
    bus.create("raw", nbytes=8)
    bus.sync()
    reader = None if path is None else mmsb.open(path, mode="r")
    numbers = itertools.count(1)
    parents, children = inside(bus, path), of_child(bus, reader, path)
    wrong: list[str] = []
    failures: list[str] = []

    def work(name: str, is_going: threading.Event, is_begun: threading.Event) -> None:
        try:
            for _ in range(MOST_CALLS):
                parents[name](next(numbers))
                is_begun.set()
                if not is_going.is_set():
                    return
        except BaseException as error:
            failures.append(f"the parent's thread in {name}: {error!r:.300}")
            is_begun.set()

    for number in range(forks):
        names = rng.sample(list(parents), 2)
        names[0] = list(parents)[number % len(parents)]
        going, begun = threading.Event(), [threading.Event() for _ in names]
        going.set()
        threads = [
            threading.Thread(target=work, args=(name, going, event))
            for name, event in zip(names, begun, strict=True)
        ]
        for thread in threads:
            thread.start()
        for event in begun:
            event.wait(PATIENCE_S)
        for _ in range(rng.randrange(2_000)):  # on, to a moment within the calls
            pass
        order = list(children)
        rng.shuffle(order)
        wrong += fork({name: children[name] for name in order}, " and ".join(names))
        going.clear()
        for thread in threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                wrong.append(f"the parent hangs in {names} behind a fork")
                print(f"{number + 1} forks; " + "\n".join(wrong), flush=True)
                os._exit(1)
        bus.commit(state(next(numbers)))
    wrong += failures
    newest = next(numbers)
    bus.commit(state(newest))
    assert bus.verify()
    bus.close()
    if path is not None:
        with mmsb.open(path) as again:
            assert again.tree()["n"] == newest
            assert again.verify()
    print(f"{forks} forks, {kind}, {forks * len(children)} calls in children")
    print("\n".join(sorted(set(wrong))))
    os._exit(bool(wrong))  # what hangs is not waited for


if __name__ == "__main__":
    main()
