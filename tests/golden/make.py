"""Makes the golden log of format 1: a small log, a fork of it, and what every version holds.

``python -m tests.golden.make`` writes ``tests/golden/v1`` and refuses where it is already: a golden
log is made once and kept, so that every later version can show that it still reads it. (A change of
the format before its release makes it anew; a change after that makes another one, ``v2``.)

What is expected comes from a model of dictionaries and bytes that is kept beside the log, not from
reading it back; the chain and the digest alone are taken from the writer.
"""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

from mmsb_jax.store._files import DiskFiles
from mmsb_jax.store._fork import fork_log
from tests.store._logs import FIRST_TIME_NS, Expected, Scribe

FORK_VERSION = 8

Version = dict[str, Any]
"""What one version holds, in JSON's words: what the files ``contents.json`` are made of."""


def encode(raw: bytes | None) -> str | None:
    """Bytes as JSON has them: in base 64."""
    return None if raw is None else base64.b64encode(raw).decode()


def describe(scribe: Scribe) -> list[Version]:
    """What every version of a log must hold, from the model beside it; oldest first."""
    return [_describe(scribe, v, scribe.history[v]) for v in range(1, len(scribe.history))]


def _describe(scribe: Scribe, version: int, expected: Expected) -> Version:
    record = scribe.log.record(version)
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


def read_golden(folder: Path) -> dict[str, list[Version]]:
    """What the logs ``whole`` and ``fork`` of a golden folder hold, by version."""
    contents = json.loads((folder / "contents.json").read_text())
    whole, own = contents["whole"], contents["fork"]
    return {"whole": whole, "fork": whole[: own[0]["version"] - 1] + own}


def _as_json(versions: list[Version]) -> str:
    rows = (json.dumps(version, ensure_ascii=False) for version in versions)
    return "[\n" + ",\n".join(rows) + "\n]"


def _ids() -> Callable[[int], bytes]:
    """Ids that are the same each time."""
    made = iter(range(1, 256))
    return lambda size: bytes([next(made)]) * size


def main() -> None:
    """Make ``v1`` beside this file."""
    root = Path(__file__).parent / "v1"
    if root.exists():
        sys.exit(f"{root} is there already, and a golden log is never made again")
    clock = mock.patch("time.time_ns", return_value=FIRST_TIME_NS)
    with mock.patch("os.urandom", _ids()), clock:
        scribe, branch = write_story(root / "whole", root / "fork")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    whole, own = _as_json(describe(scribe)), _as_json(describe(branch)[FORK_VERSION:])
    (root / "contents.json").write_text(f'{{"whole": {whole},\n"fork": {own}}}\n')
    print(f"{root}: {len(scribe.history) - 1} + {len(branch.history) - 1} versions, {size:,} bytes")


if __name__ == "__main__":
    main()
