"""Arrays that are made from others: taking up their rules, and computing what is stale."""

import warnings
from typing import Any

import numpy as np

from mmsb_jax._base.errors import ClosedError
from mmsb_jax._bus.derive.derived import Derived, Mode
from mmsb_jax._bus.derive.log_entries import rules_in
from mmsb_jax._bus.derive.reader_view import DerivedView
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.derive.transaction import GraphEdit
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.session import Session
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._bus.write.array_writer import ArrayWriter
from mmsb_jax._bus.write.draft_builder import DraftBuilder
from mmsb_jax._graph.run.node import Rule
from mmsb_jax._graph.wave.function import DerivedGraph
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.state.state import StoredState

Edge = tuple[str, str, str]
"""(parent, child, kind)."""

_SILENT = CommitInfo(None, "", None, None)


class DerivedArrays:
    """What a bus does about derived arrays; a reader computes them when they are read.

    Every method is called with the lock of the bus held.

    Args:
        session: the bus.
        arrays: what writes them.
    """

    def __init__(self, session: Session, arrays: ArrayWriter) -> None:
        self._session = session
        self._arrays = arrays
        self._view = DerivedView()

    @property
    def _of_writer(self) -> Derivations | None:
        engine = self._session.engine
        return None if engine is None else engine.derivations

    def known(self) -> Derivations:
        """What is derived once all has landed; on a reader what the log says."""
        head, derivations = self._session.head(), self._of_writer
        if derivations is None:
            return self._view.recorded(head)
        derivations.attach_copies(head.table, self._arrays.shape)
        return derivations

    def derive(self, rule: Rule, info: CommitInfo) -> Commit | None:
        """Take a rule up: it, or, where the log has it already, its function alone."""
        head, derivations, shape = self._session.head(), self._of_writer, self._arrays.shape
        if derivations is None:
            self._view.derive(rule, head, shape)
            return None
        if not derivations.is_known(rule) or not derivations.attach(rule, head.table, shape):
            return self._arrays.edit_graph(GraphEdit(rules={rule.name: rule}), info)
        node = derivations.flow.nodes[rule.name]
        if not derivations.flow.is_eager(node):
            return None
        recompute = derivations.computable(derivations.stale_above(node.outputs))
        if not recompute:
            return None
        return self._arrays.edit_graph(GraphEdit(recompute=recompute), info)

    def attach_to_fork(self, other: "DerivedArrays") -> None:
        """Give a fork the functions that are attached here."""
        derivations, theirs = self._of_writer, other._of_writer
        if derivations is not None and theirs is not None:
            state, shape = other._session.head(), self._arrays.shape
            known = shape if shape is not None and checkouts.fits(state, shape) else None
            theirs.attach_from(derivations, state.table, known)

    def unlink(self, edge: Edge, info: CommitInfo) -> Commit | None:
        """Take a link back, in the batch or now."""
        batch = self._arrays.batch
        if batch is None or batch.graph is None or edge not in batch.graph.links:
            self.graph().remove(*edge)  # refuses what is not there
        return self._arrays.edit_graph(GraphEdit(unlinked=[edge]), info)

    def graph(self) -> DerivedGraph:
        """What follows from what, as it is now."""
        if self._session.engine is None:
            return self._view.graph(self._session.head())
        flow = self.known().flow
        return DerivedGraph.of(flow.graph, flow.nodes.values())

    def described(self) -> dict[str, Derived]:
        """What is derived, by name."""
        derivations = self.known()
        stale = derivations.stale_nodes()
        recorded = rules_in(self._session.head().table.graph)
        since = {known.rule.name: known.since for known in recorded}
        return {
            node.name: Derived(
                name=node.name,
                inputs=node.rule.inputs,
                reads=node.inputs,
                arrays=node.outputs,
                function=node.rule.function_name,
                is_attached=node.recipe is not None,
                when=node.rule.when,
                is_stale=node.name in stale,
                runs=derivations.runs[node.name],
                function_version=since.get(node.name),
            )
            for node in sorted(derivations.flow.nodes.values(), key=lambda n: n.serial)
        }

    @property
    def mode(self) -> Mode:
        """Whether commits compute what follows, or mark it."""
        derivations = self._of_writer
        return "deferred" if derivations is not None and derivations.is_deferred else "immediate"

    def set_mode(self, mode: Mode) -> None:
        """Set `mode`."""
        derivations = self._of_writer
        if derivations is None:
            raise _computes_when_read()
        self._session.settle()
        derivations.is_deferred = mode == "deferred"

    def propagate(self, info: CommitInfo) -> Commit | None:
        """Compute what is stale and would have been computed with each commit."""
        derivations = self.known()
        if self._session.engine is None:
            raise _computes_when_read()
        recompute = derivations.deferred()
        if not recompute:
            return None
        return self._arrays.edit_graph(GraphEdit(recompute=recompute), info)

    def check(self) -> list[str]:
        """What is wrong with what was derived: computed anew, twice, and compared."""
        derivations = self._of_writer
        if derivations is None:
            return []
        return derivations.check(self._session.head(), self._arrays.shape)

    # --------------------------------------------------------------------------- single arrays

    def read(self, name: str) -> Any:
        """The newest value of one array; inside a batch, the one written in it."""
        state, changes = self._session.head(), self._arrays.batch
        if changes is None:
            if name not in self._arrays.pending.specs:
                return self._read(name, state)
            changes = self._arrays.changes()
        info = changes.find(name)
        return checkouts.array_of(info, changes.bytes_of(info), self._session.places.of)

    def _read(self, name: str, state: StoredState) -> Any:
        """An array; one that is stale is computed first, where that can be."""
        derivations = self._of_writer
        if derivations is None:
            value = self._view.read(name, state, self._session.places.of)
            if value is not None:
                return value
            derivations = self._view.recorded(state)
        if derivations.stale and name in derivations.flow.makers:
            derivations.attach_copies(state.table, self._arrays.shape)
            self._clean(name, derivations)
        return checkouts.read_array(
            state, checkouts.find_array(state, name), self._session.places.of
        )

    def _clean(self, name: str, derivations: Derivations) -> None:
        above = derivations.stale_above([name])
        if not above:
            return
        able = derivations.computable(above)
        if self._session.engine is not None and able == above:
            self._arrays.edit_graph(GraphEdit(recompute=above), _SILENT)
            return
        rule = derivations.flow.makers[name].rule
        what = (
            "a reader does not compute what the log holds; derive it here to do so"
            if self._session.engine is None
            else f"attach the functions of {', '.join(sorted(above - able))} with derive"
        )
        warnings.warn(
            f"{rule.title} is stale: an input has changed since it was computed, and this is its "
            f"old value ({what})",
            stacklevel=5,
        )

    def delete(self, name: str, source: str) -> Commit | None:
        """Delete one array, or what is derived under a name."""
        arrays, info = self._arrays, CommitInfo(None, source, None, None)
        if arrays.batch is None and name in arrays.pending.specs:
            arrays.record_pending(source)
        derivations, batch = self._of_writer, arrays.batch
        if derivations is not None and name in derivations.flow.nodes:
            return arrays.edit_graph(GraphEdit(dropped=[name]), info)
        rules = {} if batch is None or batch.graph is None else batch.graph.rules
        if name in rules:
            if batch is not None and rules[name].is_copy and batch.has(name):
                batch.delete(name)  # an array that was there before the link
            return arrays.edit_graph(GraphEdit(dropped=[name]), info)
        return arrays.change(lambda changes: changes.delete(name), info)

    def page_versions(self, name: str) -> np.ndarray:
        """The version of the last commit that changed a byte of each page (uint64[pages])."""
        session = self._session
        if session.engine is None:
            log, threads = session.log, session.threads
            state = log.state(
                log.version, name.__eq__, page_bytes=session.page_bytes, executor=threads
            )
            return state.page_versions[checkouts.find_array(state, name).id]
        state = session.engine.head.state
        array_id = state.table.ids.get(name)
        if array_id is not None:
            return state.page_versions[array_id].copy()
        info = (self._arrays.batch or DraftBuilder(state, self._arrays.pending)).find(name)
        return np.zeros(-(-info.nbytes // session.page_bytes), np.uint64)


def _computes_when_read() -> ClosedError:
    return ClosedError("this bus was opened with mode='r': it computes when read")
