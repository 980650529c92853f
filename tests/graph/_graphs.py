"""Graphs for the tests of waves: a pool of functions, random graphs of them, and what is expected.

`Model` says what a wave is to do, in plain Python over bytes: which nodes run, what they leave, and
what is stale. It computes a node by deriving it alone on a bus of its own (`Kit.alone`), so that a
difference is a fault of the wave, and not of a function.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._graph.run.node import Tracer
from mmsb_jax._graph.run.runner import NodeRunner


def F(*numbers: float) -> np.ndarray:
    """An array of float32."""
    return np.array(numbers, np.float32)


def insides(bus: mmsb.Bus) -> Derivations:
    """What a bus knows of its derived arrays."""
    engine = bus._session.engine
    assert engine is not None
    return engine.derivations


def programs(bus: mmsb.Bus) -> int:
    """Programs compiled for the derived arrays of a bus."""
    return bus.stats().wave_programs.total


def runs(bus: mmsb.Bus) -> dict[str, int]:
    """How often each node has run."""
    return {name: derived.runs for name, derived in bus.derived().items()}


def stale(bus: mmsb.Bus) -> set[str]:
    """The nodes that are stale."""
    return {name for name, derived in bus.derived().items() if derived.is_stale}


def raw(value: Any) -> bytes:
    """The bytes of a value."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).tobytes()


def head(bus: mmsb.Bus) -> dict[str, bytes]:
    """The bytes of every array, stale ones as they are."""
    state = bus._session.head()
    return {info.name: state.bytes_of(info.id).tobytes() for info in state.table.arrays.values()}


# ------------------------------------------------------------------------------ the sources


def _bumped() -> np.ndarray:
    """The second value of the large source with two elements changed, one in the last page."""
    array = np.linspace(-1, 1, 5000, dtype=np.float32)
    array[[7, 4999]] = 2, -5
    return array


def _keys(number: int) -> Any:
    return jax.random.key(number)


SOURCES: dict[str, tuple[Any, ...]] = {
    "f0": (F(0, 0, 0, 0, 0), F(1, -2, 3, 4, -5), F(1.5, -0.0, np.nan, 2, 7), F(1, -2, 3, 4, -5.4)),
    "f1": (F(0, 0, 0, 0, 0), F(2, 2, 2, 2, 2), F(-1, 0, 1, 0, -1), F(2, 2, 2, 2, 2.3)),
    "s0": tuple(jnp.asarray(F(x)[0]) for x in (0, 1, -3, 0.25)),
    "i0": tuple(jnp.arange(5, dtype=jnp.int32) * k for k in (0, 1, -7, 2**20)),
    "h0": tuple(jnp.asarray(F(0, 1, 2.5, -3, 9) * k, jnp.bfloat16) for k in (0, 1, 2, -1)),
    "b0": tuple(np.array([k > 1, True, False, k > 0, False]) for k in range(4)),
    "L0": (*(np.linspace(-k, k, 5000, dtype=np.float32) for k in (0, 1, 3)), _bumped()),
    "d0": tuple(np.arange(3) * np.pi * k for k in (0, 1, 1e9, -1)),
    "k0": tuple(map(_keys, range(4))),
    "n0": (0, 1, -5, 2**31 - 1),
}
"""The values that a source takes; a source's kind is its first letter."""


def kind_of(name: str) -> str:
    """What an array is: float, scalar, int, bool, bfloat16, large, wide, key or Python number."""
    return name[0]


# ------------------------------------------------------------------------------- the functions


@dataclass(frozen=True, eq=False)
class Fn:
    """A function of the pool.

    Attributes:
        takes: the kinds of its arguments.
        gives: the kinds of its results, by path; a bare one under the empty path.
        call: for JAX.
        plain: the same in NumPy, as a list of results; None where NumPy has no such thing.
        equal: its cutoff.
        is_pagewise: whether it is computed page by page.
    """

    takes: str
    gives: dict[str, str]
    call: Callable[..., Any]
    plain: Callable[..., list[Any]] | None = None
    equal: Any = "bytes"
    is_pagewise: bool = False


def close(old: Any, new: Any) -> Any:
    """A cutoff: no element has moved by more than a half."""
    return jnp.all(jnp.abs(old - new) <= 0.5)


def _scaled(by: float) -> Callable[[Any], Any]:
    return lambda x: x * by


def _shifted(by: np.ndarray) -> Callable[[Any], Any]:
    return lambda x: x + by


def _noise(key: Any) -> Any:
    return jax.random.normal(key, (5,))


def _mux(flags: Any, x: Any, y: Any) -> Any:
    return jax.lax.cond(flags[0], lambda: x * 2, lambda: y)


BARE = ""
ONE, THREE = np.float32(1), np.float32(3)

POOL: dict[str, Fn] = {
    "add": Fn("ff", {BARE: "f"}, lambda x, y: x + y, lambda x, y: [x + y]),
    "double": Fn("f", {BARE: "f"}, _scaled(2.0), lambda x: [x * 2]),
    "third": Fn("f", {BARE: "f"}, lambda x: x / 3, lambda x: [x / THREE]),
    "half": Fn("f", {BARE: "f"}, _scaled(0.5), lambda x: [x * np.float32(0.5)]),
    "shift": Fn("f", {BARE: "f"}, _shifted(F(1, 2, 3, 4, 5)), lambda x: [x + F(1, 2, 3, 4, 5)]),
    "shift too": Fn("f", {BARE: "f"}, _shifted(F(0, 0, 1, 0, 0)), lambda x: [x + F(0, 0, 1, 0, 0)]),
    "sign": Fn("f", {BARE: "f"}, jnp.sign, lambda x: [np.sign(x)]),
    "zero": Fn("f", {BARE: "f"}, lambda x: x * 0 + 1, lambda x: [x * 0 + ONE]),
    "relu, never equal": Fn(
        "f", {BARE: "f"}, lambda x: jnp.maximum(x, 0), lambda x: [np.maximum(x, 0)], "never"
    ),
    "close": Fn("f", {BARE: "f"}, lambda x: x + 0, None, close),
    "sum": Fn("f", {BARE: "s"}, jnp.sum, lambda x: [x.sum()]),
    "sum, close": Fn("f", {BARE: "s"}, lambda x: x.sum(), None, close),
    "mean": Fn("f", {BARE: "s"}, jnp.mean, lambda x: [x.mean()]),
    "scale": Fn("fs", {BARE: "f"}, lambda x, s: x * s, lambda x, s: [x * s]),
    "square": Fn("s", {BARE: "s"}, lambda s: s * s, lambda s: [s * s]),
    "ends": Fn(
        "f",
        {"high": "s", "low": "s"},
        lambda x: {"low": x.min(), "high": x.max()},
        lambda x: [x.max(), x.min()],
    ),
    "split": Fn(
        "fi",
        {"0": "f", "1/x": "i", "1/y": "b"},
        lambda x, i: (x - 1, {"x": i + 1, "y": x > 0}),
        lambda x, i: [x - 1, i + 1, x > 0],
    ),
    "round": Fn("f", {BARE: "i"}, lambda x: jnp.nan_to_num(x).astype(jnp.int32), None),
    "count": Fn("ii", {BARE: "i"}, lambda i, j: i * 3 - j, lambda i, j: [i * 3 - j]),
    "below": Fn("ff", {BARE: "b"}, lambda x, y: x < y, lambda x, y: [x < y]),
    "mux": Fn("bff", {BARE: "f"}, _mux, lambda b, x, y: [x * 2 if b[0] else y]),
    "where": Fn("bff", {BARE: "f"}, jnp.where, lambda b, x, y: [np.where(b, x, y)]),
    "brain": Fn("hf", {BARE: "h"}, lambda h, x: h + x.astype(h.dtype), None),
    "wide": Fn("d", {BARE: "d"}, lambda d: d / 3, lambda d: [d / 3]),
    "narrow": Fn("d", {BARE: "s"}, lambda d: d.sum().astype(jnp.float32), None),
    "noise": Fn("k", {BARE: "f"}, _noise),
    "next key": Fn("k", {BARE: "k"}, lambda key: jax.random.fold_in(key, 1)),
    "number": Fn("ns", {BARE: "s"}, lambda n, s: s + n, lambda n, s: [s + np.float32(n)]),
    "spread": Fn("f", {BARE: "L"}, lambda x: jnp.tile(x, 1000), lambda x: [np.tile(x, 1000)]),
    "gather": Fn("L", {BARE: "f"}, lambda x: x[::1000], lambda x: [x[::1000]]),
    "large": Fn("Ls", {BARE: "L"}, lambda x, s: x * s, lambda x, s: [x * s]),
    "large, close": Fn("L", {BARE: "L"}, lambda x: -x, None, close),
    "largest": Fn("L", {BARE: "s"}, jnp.max, lambda x: [x.max()]),
    "paged": Fn(
        "Ls", {BARE: "L"}, lambda x, s: x * s + 1, lambda x, s: [x * s + 1], is_pagewise=True
    ),
    "paged, two": Fn(
        "LL", {BARE: "L"}, jnp.minimum, lambda x, y: [np.minimum(x, y)], is_pagewise=True
    ),
}


# ----------------------------------------------------------------------------------- the graphs


@dataclass(frozen=True)
class Plan:
    """A derived array to be.

    Attributes:
        name: what it is called.
        fn: name of its function in `POOL`.
        inputs: the arrays that it reads.
        when: as `derive` takes it.
        gates: arrays that control it.
    """

    name: str
    fn: str
    inputs: tuple[str, ...]
    when: str = "commit"
    gates: tuple[str, ...] = ()

    @property
    def outputs(self) -> dict[str, str]:
        """Array → kind."""
        return {
            f"{self.name}/{path}" if path else self.name: kind
            for path, kind in POOL[self.fn].gives.items()
        }


@st.composite
def graphs(draw: st.DrawFn, most: int = 12, fns: Sequence[str] = tuple(POOL)) -> list[Plan]:
    """Random graphs over `SOURCES`, parents first."""
    arrays = {name: kind_of(name) for name in SOURCES}
    plans: list[Plan] = []
    for number in range(draw(st.integers(1, most))):
        fn = draw(st.sampled_from(fns))
        inputs = tuple(
            # The newest come first: chains are likelier than fans.
            draw(st.sampled_from([n for n, k in reversed(arrays.items()) if k == kind]))
            for kind in POOL[fn].takes
        )
        when = draw(st.sampled_from(["commit", "commit", "commit", "read"]))
        gates = ()
        if draw(st.integers(0, 7)) == 0:
            gates = (draw(st.sampled_from(sorted(arrays))),)
        plans.append(Plan(f"v{number}", fn, inputs, when, gates))
        arrays |= plans[-1].outputs
    return plans


class Compiled:
    """What has been compiled, lent to many buses, so that tests compile once."""

    def __init__(self) -> None:
        self._machine, self._tracer = NodeRunner(), Tracer()

    def lend(self, bus: mmsb.Bus) -> mmsb.Bus:
        """Let a bus use it."""
        known = insides(bus)
        known.machine = known.waves.machine = self._machine
        known.tracer = self._tracer
        return bus


class Kit(Compiled):
    """All functions of the pool, compiled."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[Any, ...], list[bytes]] = {}
        self._buses: dict[str, mmsb.Bus] = {}
        self._warm_up()

    def _warm_up(self) -> None:
        """Compile everything now: one program with all small functions, and the large ones."""
        with self.open() as bus:
            self.derive(
                bus,
                # Different inputs where there are some: a program has room for so many.
                (
                    Plan(
                        f"v{i}",
                        name,
                        tuple(f"{k}{k == 'f' and n == 1:d}" for n, k in enumerate(fn.takes)),
                    )
                    for i, (name, fn) in enumerate(POOL.items())
                ),
            )

    def open(self) -> mmsb.Bus:
        """A bus in memory with the sources."""
        bus = self.lend(mmsb.open())
        bus.commit({name: values[0] for name, values in SOURCES.items()})
        return bus

    def derive(self, bus: mmsb.Bus, plans: Iterable[Plan]) -> None:
        """Derive it all in one commit."""
        with bus.batch():
            for plan in plans:
                derive(bus, plan)

    def alone(self, fn: str, inputs: Sequence[bytes]) -> list[bytes]:
        """The results of a function, derived with nothing else on the bus."""
        key = (fn, *inputs)
        if key not in self._known:
            self._known[key] = self._computed(fn, inputs)
        return self._known[key]

    def _computed(self, fn: str, inputs: Sequence[bytes]) -> list[bytes]:
        names = [f"{i}" for i in range(len(inputs))]
        if fn not in self._buses:
            self._buses[fn] = bus = self.lend(mmsb.open())
            bus.commit(
                {f"in{n}": SOURCES[f"{k}0"][0] for n, k in zip(names, POOL[fn].takes, strict=True)}
            )
        bus = self._buses[fn]
        tree = bus.tree()
        leaves = [_from_bytes(data, tree[f"in{n}"]) for n, data in zip(names, inputs, strict=True)]
        bus.commit({f"in{n}": leaf for n, leaf in zip(names, leaves, strict=True)})
        plan = Plan("y", fn, tuple(f"in{n}" for n in names))
        derive(bus, plan)
        return [head(bus)[name] for name in plan.outputs]


def _from_bytes(data: bytes, like: Any) -> Any:
    if isinstance(like, int):
        return int(np.frombuffer(data, np.int64)[0])
    if isinstance(like, jax.Array) and jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        plain = jax.random.key_data(like)
        return jax.random.wrap_key_data(_from_bytes(data, plain))
    array = np.frombuffer(data, like.dtype).reshape(like.shape)
    return array if isinstance(like, np.ndarray) else jnp.asarray(array)


def derive(bus: mmsb.Bus, plan: Plan) -> None:
    """Derive one array, and link what controls it."""
    fn = POOL[plan.fn]
    bus.derive(
        plan.name,
        plan.inputs,
        fn.call,
        when=plan.when,  # type: ignore
        equal=fn.equal,
        pagewise=fn.is_pagewise,
    )
    for gate in plan.gates:
        bus.link(gate, next(iter(plan.outputs)), kind="control")


# ------------------------------------------------------------------------------------ the model


@dataclass
class Model:
    """What a bus is to hold, and to have computed.

    Attributes:
        plans: the graph, parents first.
        kit: computes single nodes.
        values: array → its bytes.
        marks: node → why it is stale.
        runs: node → how often it has run.
        is_deferred: the bus's mode.
    """

    plans: list[Plan]
    kit: Kit
    values: dict[str, bytes] = field(
        default_factory=lambda: {name: raw(values[0]) for name, values in SOURCES.items()}
    )
    marks: dict[str, str] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    is_deferred: bool = False

    def __post_init__(self) -> None:
        self._makers = {name: plan for plan in self.plans for name in plan.outputs}

    def derive_all(self) -> None:
        """The first values of it all."""
        for plan in self.plans:
            for name, kind in plan.outputs.items():
                self.values[name] = bytes(len(raw(SOURCES[f"{kind}0"][0])))
            if not self._is_eager(plan):
                self.marks[plan.name] = "new"
        self._wave(set(), {plan.name for plan in self.plans if self._is_eager(plan)}, set())

    def write(self, values: dict[str, bytes]) -> None:
        """A commit of sources."""
        changed = {name for name, value in values.items() if self.values[name] != value}
        self.values |= values
        self._wave(changed, set(), set())

    def read(self, name: str) -> bool:
        """Read an array; whether that is a commit."""
        above = self._stale_above([name])
        if above:
            self._wave(set(), set(), above)
        return bool(above)

    def propagate(self) -> bool:
        """Compute what is deferred; whether that is a commit."""
        eager = [plan for plan in self.plans if plan.name in self.marks and self._is_eager(plan)]
        above = self._stale_above(name for plan in eager for name in plan.outputs)
        if above:
            self._wave(set(), set(), above)
        return bool(above)

    def _is_eager(self, plan: Plan) -> bool:
        below = {plan.name}
        for other in self.plans:
            if any(self._maker(name) in below for name in other.inputs):
                below.add(other.name)
        return any(other.when == "commit" for other in self.plans if other.name in below)

    def _maker(self, array: str) -> str | None:
        return self._makers[array].name if array in self._makers else None

    def _stale_above(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            plan = self._makers.get(waiting.pop())
            if plan is not None and plan.name in self.marks and plan.name not in found:
                found.add(plan.name)
                waiting += plan.inputs
        return found

    def _wave(self, changed: set[str], fresh: set[str], cleaning: set[str]) -> None:
        """Behaviour 8: at most once each, parents first, where an input has changed."""
        reached = set(changed)
        for plan in self.plans:
            begins = plan.name in fresh | cleaning
            if begins or not reached.isdisjoint((*plan.inputs, *plan.gates)):
                reached |= plan.outputs.keys()
                self._take(plan, changed, plan.name in fresh, plan.name in fresh | cleaning)

    def _take(self, plan: Plan, changed: set[str], is_fresh: bool, is_asked: bool) -> None:
        mark = self.marks.get(plan.name)
        has_no_value = is_fresh or mark == "new"
        is_due = has_no_value or mark == "dirty" or not changed.isdisjoint(plan.inputs)
        is_blocked = any(self._maker(name) in self.marks for name in plan.inputs)
        may_run = is_asked or (not self.is_deferred and self._is_eager(plan))
        after: str | None
        if not is_asked and not changed.isdisjoint(plan.gates):
            after = "dirty"
        elif is_blocked:
            after = "dirty" if is_due else "pending"
        elif not may_run:
            after = "dirty" if is_due else None
        else:
            after = None
            if is_due:
                self._compute(plan, changed, has_no_value)
        self.marks.pop(plan.name, None)
        if after is not None:
            self.marks[plan.name] = "new" if has_no_value else after

    def _compute(self, plan: Plan, changed: set[str], is_first: bool) -> None:
        self.runs[plan.name] += 1
        fn = POOL[plan.fn]
        made = self.kit.alone(plan.fn, [self.values[name] for name in plan.inputs])
        now = dict(zip(plan.outputs, made, strict=True))
        if callable(fn.equal):
            if not is_first and self._is_close(plan, now):
                return
            changed.update(now)
        elif fn.equal == "never":
            changed.update(now)
        else:
            changed.update(name for name, value in now.items() if value != self.values[name])
        self.values |= now

    def _is_close(self, plan: Plan, now: dict[str, bytes]) -> bool:
        pairs = [(self.values[name], value) for name, value in now.items()]
        olds, news = ([np.frombuffer(x, np.float32) for x in side] for side in zip(*pairs))
        return all(bool((abs(o - n) <= 0.5).all()) for o, n in zip(olds, news, strict=True))


def check_against_numpy(
    values: dict[str, bytes], plans: Iterable[Plan], but: Collection[str]
) -> int:
    """Every node against NumPy, from the values that it was made from; how many were compared."""
    done = 0
    for plan in plans:
        fn = POOL[plan.fn]
        if plan.name in but or fn.plain is None:
            continue
        arguments = [
            np.asarray(_from_bytes(values[name], SOURCES[f"{kind}0"][0]))
            for name, kind in zip(plan.inputs, fn.takes, strict=True)
        ]
        with np.errstate(all="ignore"):
            wanted = fn.plain(*arguments)
        for (name, kind), want in zip(plan.outputs.items(), wanted, strict=True):
            got = np.asarray(_from_bytes(values[name], SOURCES[f"{kind}0"][0]))
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=f"{plan}")
            done += 1
    return done
