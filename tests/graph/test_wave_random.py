"""Random graphs under random commits: waves do what the model says, and equal a new beginning."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from tests.graph._graphs import (
    POOL,
    SOURCES,
    Kit,
    Model,
    Plan,
    check_against_numpy,
    graphs,
    head,
    raw,
    runs,
    stale,
)

CHANGES = st.lists(
    st.tuples(st.sampled_from(sorted(SOURCES)), st.integers(0, 3)), min_size=1, max_size=4
)
STEPS = st.one_of(
    st.tuples(st.just("write"), CHANGES.map(lambda changes: changes[:1])),
    st.tuples(st.just("batch"), CHANGES),
    st.tuples(st.just("revert"), CHANGES),
    st.tuples(st.just("tree"), CHANGES),
    st.tuples(st.just("read"), st.integers(0, 100)),
    st.tuples(st.just("mode"), st.booleans()),
    st.tuples(st.just("propagate"), st.none()),
)


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit()


class Run:
    """A bus beside its model."""

    def __init__(self, kit: Kit, plans: list[Plan]) -> None:
        self.kit, self.plans = kit, plans
        self.bus, self.model = kit.open(), Model(plans, kit)
        self.now = dict.fromkeys(SOURCES, 0)
        self.versions = {self.bus.version: head(self.bus)}
        kit.derive(self.bus, plans)
        self.model.derive_all()
        self.check(self.bus.version)

    def check(self, version: int) -> None:
        """All that is to be as the model says."""
        bus, model = self.bus, self.model
        assert bus.version == version
        before = self.versions.get(version - 1, {})
        assert head(bus) == model.values
        assert runs(bus) == {plan.name: model.runs[plan.name] for plan in self.plans}
        assert stale(bus) == set(model.marks)
        [commit] = bus.log(since=version)
        changed = {n for n, v in model.values.items() if n in before and v != before[n]}
        assert changed <= set(commit.changed) <= changed | (model.values.keys() - before.keys())
        self.versions[version] = dict(model.values)

    def step(self, verb: str, what: Any) -> None:
        """One step, on both."""
        getattr(self, f"do_{verb}")(what)

    def do_write(self, changes: list[tuple[str, int]]) -> None:
        [(name, number)] = changes
        self.bus.write(name, SOURCES[name][number])
        self.landed(changes)

    def do_batch(self, changes: list[tuple[str, int]]) -> None:
        derived = sorted(self.model.values.keys() - SOURCES.keys())
        with self.bus.batch():
            for name, number in changes:
                self.bus.write(name, SOURCES[name][number])
                assert raw(self.bus.read(name)) == raw(SOURCES[name][number])
            for name in derived[:2]:  # as before
                assert raw(self.bus.read(name)) == self.model.values[name]
        self.landed(changes)

    def do_revert(self, changes: list[tuple[str, int]]) -> None:
        """Written, and written back in the same batch."""
        with self.bus.batch():
            for name, number in changes:
                self.bus.write(name, SOURCES[name][number])
            for name, _ in changes:
                self.bus.write(name, SOURCES[name][self.now[name]])
        self.landed([(name, self.now[name]) for name, _ in changes])

    def do_tree(self, changes: list[tuple[str, int]]) -> None:
        now = self.now | dict(changes)
        self.bus.commit({name: SOURCES[name][number] for name, number in now.items()})
        self.landed(changes)

    def landed(self, changes: list[tuple[str, int]]) -> None:
        self.now |= dict(changes)
        self.model.write({name: raw(SOURCES[name][self.now[name]]) for name, _ in changes})
        self.check(max(self.versions) + 1)

    def do_read(self, number: int) -> None:
        names = sorted(self.model.values)
        name = names[number % len(names)]
        is_commit = self.model.read(name)
        assert raw(self.bus.read(name)) == self.model.values[name]
        self.check(max(self.versions) + is_commit)

    def do_mode(self, is_deferred: bool) -> None:
        self.bus.mode = "deferred" if is_deferred else "immediate"
        self.model.is_deferred = is_deferred

    def do_propagate(self, what: None) -> None:
        is_commit = self.model.propagate()
        assert (self.bus.propagate() is not None) == is_commit
        self.check(max(self.versions) + is_commit)

    def check_from_scratch(self) -> None:
        """Derived anew from the same sources on another bus, it all has the same bytes."""
        for plan in self.plans:
            for name in plan.outputs:
                self.bus.read(name)
        with self.kit.open() as other:
            other.commit({name: SOURCES[name][number] for name, number in self.now.items()})
            self.kit.derive(other, self.plans)
            for plan in self.plans:
                for name in plan.outputs:
                    other.read(name)
            assert not stale(self.bus)
            assert not stale(other)
            assert head(self.bus) == head(other)

    def check_past(self) -> None:
        """The log gives back every version, and checks out."""
        assert self.bus.verify()
        for version, values in self.versions.items():
            found = self.bus.checkout(version=version, arrays=["**"])
            assert {name: raw(value) for name, value in found.items()} == values


def has_history(plans: list[Plan]) -> bool:
    """Whether a value may depend on those before it."""
    return any(callable(POOL[plan.fn].equal) for plan in plans)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(plans=graphs(), steps=st.lists(STEPS, max_size=8))
def test_wave_on_random_graphs_equals_the_model(kit, plans, steps):
    run = Run(kit, plans)
    for verb, what in steps:
        run.step(verb, what)
        check_against_numpy(run.model.values, plans, but=run.model.marks)
    run.check_past()
    if not has_history(plans):
        run.check_from_scratch()
    run.bus.close()
