"""A step: what one commit asks of derived arrays, and what it does to them.

It is prepared (functions are traced, arrays are made, what must not be is refused), followed (the
wave runs on what has changed), and then either done or taken back as a whole.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from mmsb_jax._base.errors import RecomputeError, StructureError
from mmsb_jax._bus.derive.inputs import Arrays, arguments_of, names_of, unattached
from mmsb_jax._bus.derive.log_entries import (
    Edge,
    check_results,
    gone,
    in_force_since,
    link_entry,
    mark_entry,
    mark_of,
    rule_entry,
)
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.trees.tree import TreeShape, info_of, spec_of
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._core.tree.paths import is_same_treedef
from mmsb_jax._graph.run.node import Arguments, Node, Rule, bind
from mmsb_jax._graph.run.pagewise import ChangedRows
from mmsb_jax._graph.wave.node_table import Mark
from mmsb_jax._graph.wave.wave import Wave, WaveRequest
from mmsb_jax._store.commit.compare import ArrayAfter, Changes
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.plan import Content, Plan
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.state.state import Table


@dataclass(slots=True)
class GraphEdit:
    """What a commit is asked to do to the graph.

    Attributes:
        rules: derived arrays to make, or to make anew, in order.
        dropped: rules to take away with their arrays.
        links, unlinked: edges that are no data.
        recompute: stale nodes to compute.
    """

    rules: dict[str, Rule] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    links: list[Edge] = field(default_factory=list)
    unlinked: list[Edge] = field(default_factory=list)
    recompute: frozenset[str] = frozenset()

    def then(self, other: "GraphEdit") -> "GraphEdit":
        """This change, and then another; this one is the result.

        Cost: the other's size, as long as it takes nothing back.
        """
        if other.dropped:
            self.rules = {n: r for n, r in self.rules.items() if n not in other.dropped}
            self.dropped = list(dict.fromkeys(self.dropped + other.dropped))
        if other.unlinked:
            self.links = [edge for edge in self.links if edge not in other.unlinked]
        if other.links:
            self.unlinked = [edge for edge in self.unlinked if edge not in other.links]
        self.rules |= other.rules
        self.links += other.links
        self.unlinked += other.unlinked
        self.recompute |= other.recompute
        return self


class Followed(NamedTuple):
    """What follows from the changes of a commit.

    Attributes:
        contents: array id → what it becomes.
        entries: entries of the graph.
    """

    contents: dict[int, Content]
    entries: dict[str, str | None]


class DerivationTransaction:
    """One commit, as far as derived arrays are concerned."""

    def __init__(
        self,
        derivations: Derivations,
        table: Table,
        draft: Draft,
        change: GraphEdit,
        shape: TreeShape | None,
    ) -> None:
        self._all, self._flow = derivations, derivations.flow
        self._table, self._draft, self._change = table, draft, change
        self._arrays = Arrays(table, draft, shape)
        self._operated: set[str] = set()
        self._bound: dict[str, bool] = {}
        self._first_run: set[str] = set()
        self._mark_stale: set[str] = set()
        self._recompute = change.recompute
        self._next_serial = derivations.next_serial
        self._stale = dict(derivations.stale) if change.dropped else derivations.stale
        self._gone = frozenset(change.dropped)
        self._awaited = derivations.awaited
        self._covered = derivations.flow.below(self._awaited) - self._gone
        self._marks: dict[str, Mark | None] = {}
        self._runs: dict[str, int] = {}
        self.wave, self.wave_ns = Wave(), 0

    def prepare(self) -> None:
        """See `prepare`."""
        self._refuse_writes()
        touched = {op.info.name for op in self._draft.ops}
        lost = [name for name in touched if self._arrays.find(name) is None]
        for name in lost:
            self._unlink_all(name)
        # What others read goes after these have been derived from something else.
        dropped = [name for name in self._change.dropped if name in self._flow.nodes]
        read = {name for name in dropped if self._readers_of(name)}
        late = [name for name in dropped if name in read - self._change.rules.keys()]
        for name in dropped:
            touched |= set() if name in read else set(self._drop(name))
        if touched or self._draft.values:
            nodes = [node for name in touched for node in self._flow.readers(name)]
            nodes += self._flow.patterned.values()
            self._rebind(nodes, {*self._change.rules, *late})
        for name in lost:
            self._flow.forget(name)
        others = [name for rule in self._change.rules.values() for name in self._derive(rule)]
        self._rebind((node for name in others for node in self._flow.readers(name)), late)
        for name in late:
            self._drop(name)
        while self._operated:  # patterns may select what has just been made
            self._operated.clear()
            self._rebind(self._flow.patterned.values())
        if self._change.links or self._change.unlinked:
            self._relink()
        self._decide()

    def _refuse_writes(self) -> None:
        """Refuse bytes, and operations, that are a derived array's own business."""
        makers = self._flow.makers
        if not makers:
            return
        arrays = self._table.arrays
        written = [
            arrays[i].name for i in (*self._draft.contents, *self._draft.patches) if i in arrays
        ]
        for name in (*written, *(op.info.name for op in self._draft.ops)):
            if name in makers:
                raise StructureError(
                    f"{name!r} is {makers[name].rule.title}: only its function writes it. Write "
                    f"to what it is made from, or delete {makers[name].name!r} first."
                )

    def _drop(self, name: str) -> tuple[str, ...]:
        """Take a rule away with its arrays."""
        node, readers = self._flow.nodes[name], self._readers_of(name)
        if readers:
            raise _needed(name, readers)
        for output in node.outputs:
            info = self._arrays.find(output)
            assert info is not None
            self._operate(OpCode.DELETE, info)
            self._unlink_all(output)
        self._flow.remove(name)
        self._stale.pop(name, None)
        self._draft.values |= gone(name)
        return node.outputs

    def _readers_of(self, name: str) -> list[str]:
        """The nodes with an input that stands for arrays of a node, and for nothing else."""
        outputs = set(self._flow.nodes[name].outputs)
        readers = {r.name: r for output in outputs for r in self._flow.readers(output)}
        return sorted(
            reader.name
            for reader in readers.values()
            for text in reader.rule.inputs
            if outputs.issuperset(names_of(text, self._arrays, reader.outputs))
        )

    def _unlink_all(self, array: str) -> None:
        """Take away the entries of the links at an array that goes."""
        for edge in self._flow.links_at(array):
            self._draft.values[link_entry(edge)[0]] = None

    def _operate(self, code: OpCode, info: Any) -> None:
        op = Op(code, info)
        self._draft.ops.append(op)
        self._operated.add(info.name)
        self._arrays.operate(op)

    def _rebind(self, nodes: Iterable[Node], but: Collection[str] = ()) -> None:
        """Look again at nodes whose inputs may be others now, and at what reads their arrays.

        Args:
            nodes: which.
            but: nodes that this commit makes anew or takes away.
        """
        flow = self._flow
        waiting = {node.name: node for node in nodes if node.name not in but}
        while waiting:
            found: dict[str, Node] = {}
            for node in flow.ordered(waiting.values()):
                if found.keys() & waiting.keys():
                    break  # one of those behind it reads what has changed
                del waiting[node.name]
                readers = (r for output in self._rebind_one(node) for r in flow.readers(output))
                found |= {reader.name: reader for reader in readers if reader.name not in but}
            waiting |= found

    def _rebind_one(self, node: Node) -> list[str]:
        """Returns the arrays of the node that have another shape or dtype now."""
        arrays, own = self._arrays, node.outputs
        lost = [name for name in node.inputs if arrays.find(name) is None]
        if lost and not all(names_of(text, arrays, own) for text in node.rule.inputs):
            raise _needed(lost[0], [node.name])
        if node.recipe is None:
            known = unattached(node.rule, node.serial, own, arrays)
            if known.reads != node.reads:
                self._flow.add(known)
                self._mark_stale.add(node.name)
            elif self._is_touched(node.inputs):
                self._mark_stale.add(node.name)
            return []
        arguments = self._arguments(node.rule, node.outputs)
        if (tuple(arguments.reads), tuple(arguments.specs)) == (node.reads, node.specs) and (
            arrays.shape is None or _same_trees(arguments.trees, node.arguments)
        ):
            if self._is_touched(node.inputs, but=OpCode.UPDATE):  # deleted and made, as it was
                self._bound.setdefault(node.name, False)
            return []
        return self._bind(node.rule, node.serial, arguments, node)

    def _is_touched(self, names: Collection[str], but: OpCode | None = None) -> bool:
        return any(op.info.name in names for op in self._draft.ops if op.code is not but)

    def _arguments(self, rule: Rule, own: Sequence[str]) -> Arguments:
        return arguments_of(rule.inputs, self._arrays, own, self._flow.nodes)

    def _derive(self, rule: Rule) -> list[str]:
        """Make a derived array, or make it anew; returns as `_bind`."""
        old = self._flow.nodes.get(rule.name)
        arguments = self._arguments(rule, () if old is None else old.outputs)
        if old is None:
            self._refuse_taken(rule, arguments)
        serial = self._next_serial if old is None else old.serial
        self._next_serial = max(self._next_serial, serial + 1)
        return self._bind(rule, serial, arguments, old, is_asked=True)

    def _refuse_taken(self, rule: Rule, arguments: Arguments) -> None:
        """Refuse a new rule whose name stands for something that it may not be."""
        name, what = rule.name, rule.call
        if rule.is_copy:  # a cycle is the fault then, whoever writes the array
            self._flow.graph.extend((read, name, "data") for read in arguments.reads)
        shape, maker = self._arrays.shape, self._flow.makers.get(name)
        if maker is not None:
            raise StructureError(
                f"{what}: {name!r} is a part of {maker.rule.title}. Choose another name."
            )
        if shape is not None and name in shape.parts:
            raise StructureError(
                f"{what}: {name!r} is a part of the committed tree. Choose another name."
            )
        info = self._arrays.find(name)
        if rule.is_copy and info is not None:
            self._refuse_copy(what, info)
        elif info is not None or self._arrays.has_constant(name):
            raise StructureError(
                f"{what}: there is an array named {name!r} already, which was written. Choose "
                f"another name, or delete it first."
            )

    def _refuse_copy(self, what: str, info: ArrayInfo) -> None:
        """Refuse to make a copy of an array that is there, and that others go on to write."""
        if info.member:
            raise StructureError(
                f"{what}: {info.name!r} belongs to the committed tree, whose commits write it. "
                f"Choose another name, or leave it out of the tree."
            )
        if info.id in self._draft.contents or info.id in self._draft.patches:
            raise StructureError(
                f"{what}: {info.name!r} is written in the same batch. Link it in a batch in which "
                f"nothing else writes it."
            )

    def _bind(
        self,
        rule: Rule,
        serial: int,
        arguments: Arguments,
        old: Node | None,
        is_asked: bool = False,
    ) -> list[str]:
        """Trace a rule and put its node in place; returns its arrays of another shape or dtype."""
        node = bind(self._all.tracer, rule, serial, arguments)
        assert node.recipe is not None
        check_results(rule, node.outputs)
        if old is not None and old.specs == node.specs and old.rule is rule:
            _check_same_results(old, node)
        changed = self._make_arrays(node, old, is_asked)
        self._flow.add(node)
        since = in_force_since(
            self._table.graph, rule.name, node.fingerprint, self._table.version + 1
        )
        name, text = rule_entry(rule, serial, node.outputs, node.fingerprint, since)
        if self._table.graph.get(name) != text:
            self._draft.values[name] = text
        self._bound[rule.name] = is_asked or self._bound.get(rule.name, False)
        return changed

    def _taken_over(self, node: Node) -> set[str]:
        """The array that a link makes a copy of another from now on; none where it is new."""
        assert node.recipe is not None
        info = self._arrays.find(node.name)
        if info is None:
            return set()
        is_one = node.outputs == (node.name,)
        if not is_one or not _is_alike(spec_of(info), node.recipe.body.outputs[0]):
            made = ", ".join(map(str, node.recipe.body.outputs))
            raise StructureError(
                f"{node.rule.call}: a copy is {made}, and {node.name!r} is {spec_of(info)}. "
                f"Expected the same shape and dtype: choose another name, or delete it first."
            )
        return {node.name}

    def _decide(self) -> None:
        """Which of the nodes that were put in place are computed now: that takes all of them."""
        self._mark_stale.intersection_update(self._flow.nodes)
        for name, is_asked in self._bound.items():
            node = self._flow.nodes.get(name)
            if node is None:
                continue
            if self._flow.is_eager(node) and (is_asked or not self._all.is_deferred):
                self._first_run.add(name)
                self._recompute |= self._all.computable(self._all.stale_above(node.inputs))
            else:
                self._mark_stale.add(name)

    def _make_arrays(self, node: Node, old: Node | None, is_asked: bool) -> list[str]:
        """Make the arrays of a node; returns those that are new or have another shape or dtype."""
        assert node.recipe is not None
        changed = []
        before = set(old.outputs) if old is not None else set()
        if node.rule.is_copy and (old is None or is_asked):
            before |= self._taken_over(node)
        for name in sorted(before - set(node.outputs)):
            readers = [r.name for r in self._flow.readers(name) if r.name != node.name]
            if readers:
                raise _needed(name, readers)
            info = self._arrays.find(name)
            assert info is not None
            self._unlink_all(name)
            self._operate(OpCode.DELETE, info)
        for name, spec in zip(node.outputs, node.recipe.body.outputs, strict=True):
            info = self._arrays.find(name)
            if info is None and not self._arrays.has_constant(name):
                made = info_of(self._arrays.next_id, name, spec, member=False)
                self._operate(OpCode.CREATE, made)
                changed.append(name)
            elif info is None or name not in before:
                raise StructureError(
                    f"{node.rule.title} makes an array {name!r}, and there is one of that name "
                    f"already. Choose another name, or delete it first."
                )
            elif spec_of(info) != spec:
                self._operate(OpCode.UPDATE, info_of(info.id, name, spec, member=False))
                changed.append(name)
        return changed

    def _relink(self) -> None:
        find = self._arrays.find
        for source, target, kind in self._change.links:
            for name in (source, target):
                if find(name) is None:
                    raise array_not_found(name, self._arrays.names())
            if kind == "control" and target not in self._flow.makers and target in self._flow.nodes:
                raise StructureError(
                    f"link({source!r}, {target!r}, kind='control'): an array and "
                    f"{self._flow.nodes[target].rule.title} have this name. Name one of "
                    f"{', '.join(map(repr, self._flow.nodes[target].outputs))}."
                )
        self._flow.link(self._change.links)
        edges = set(self._flow.graph.edges()) if self._change.unlinked else set()
        self._flow.unlink(edge for edge in self._change.unlinked if edge in edges)
        self._draft.values |= dict(map(link_entry, self._change.links))
        self._draft.values |= {link_entry(edge)[0]: None for edge in self._change.unlinked}

    def run(self, plan: Plan, changes: Changes) -> Followed:
        """Run the wave that the changes set off.

        An exception in it ends the commit, and nothing has changed.
        """
        flow = self._flow
        by_name = changes.found()
        due = WaveRequest(
            changed=frozenset(name for name in by_name if flow.is_watched(name)),
            moved=self._moved(),
            first_run=frozenset(self._first_run),
            mark_stale=frozenset(self._mark_stale),
            recompute=self._recompute.intersection(flow.nodes),
            is_deferred=self._all.is_deferred,
        )
        if due.changed or due.moved or due.first_run or due.mark_stale or due.recompute:
            begun, words = time.perf_counter_ns(), _Words(plan, by_name)
            self.wave = self._all.waves.run(due, words, self._stale, words.changed)
            self.wave_ns = time.perf_counter_ns() - begun
        if flow.gates or self._awaited:
            self._await(due.changed | due.moved)
        self._marks = self._marked()
        self._runs = self._counted()
        marks = dict(mark_entry(name, mark) for name, mark in self._marks.items())
        results = {
            plan.id_of(name): found.changes() if isinstance(found, ChangedRows) else found
            for name, found in self.wave.results.items()
        }
        return Followed(results, marks)

    def _moved(self) -> frozenset[str]:
        """The arrays that control others and are made anew, or have another shape or dtype now."""
        table, gates = self._table, self._flow.gates
        moved = set()
        for op in self._draft.ops if gates else ():
            info = op.info
            if info.name in gates and info.name in table.ids and op.code is not OpCode.DELETE:
                before = table.arrays[table.ids[info.name]]
                is_other = (before.shape, before.dtype) != (info.shape, info.dtype)
                moved |= {info.name} if is_other or op.code is OpCode.CREATE else set()
        return frozenset(moved)

    def _await(self, changed: frozenset[str]) -> None:
        """Find the arrays that wait to be written by their user, after what has changed.

        One that is written in this commit was made with what is written beside it. What is derived
        is computed after it.
        """
        flow, written = self._flow, self._written()
        kept = {n for n in self._awaited if n not in written and flow.is_held(n)}
        for begins, but in (changed, written), (self.wave.results.keys(), frozenset()):
            for gate in flow.gates.keys() & begins:
                kept.update(n for n in flow.gates[gate] if flow.is_held(n) and n not in but)
        self._awaited = frozenset(kept)

    def _written(self) -> frozenset[str]:
        """The arrays that this commit makes or gives bytes, be they those from before."""
        draft, arrays = self._draft, self._table.arrays
        ids = [*draft.contents, *(i for i, (words, *_) in draft.patches.items() if words.size)]
        made = (op.info.name for op in draft.ops if op.code is OpCode.CREATE)
        return frozenset([*(arrays[i].name for i in ids if i in arrays), *made])

    def _marked(self) -> dict[str, Mark | None]:
        """The marks that this commit changes, those of arrays that wait, and below them, too."""
        before, after, stale = self._all.awaited, self._awaited, self._stale
        if not before and not after:
            return self.wave.marks
        covered, marks = self._flow.below(after), self.wave.marks
        found: dict[str, Mark | None] = {}
        for name in {*marks, *(covered ^ self._covered), *(after ^ before)}:
            was = mark_of(stale.get(name), name in before, name in self._covered)
            now = mark_of(marks.get(name, stale.get(name)), name in after, name in covered)
            if now != was:
                found[name] = now
        return found

    def _counted(self) -> dict[str, int]:
        """How often each node that ran has run after this commit."""
        before = self._all.runs
        ran = Counter(node.name for node in self.wave.ran)
        return {n: count + (0 if n in self._gone else before[n]) for n, count in ran.items()}

    def done(self) -> None:
        """The commit has landed. It may be called again: everything is set, and nothing added."""
        self._flow.commit()
        everything = self._all
        everything.next_serial = self._next_serial
        everything.stale = self._stale
        for name, mark in self.wave.marks.items():
            if mark is None:
                everything.stale.pop(name, None)
            else:
                everything.stale[name] = mark
        everything.awaited = self._awaited
        for name in self._gone:
            everything.runs.pop(name, None)
        for name, count in self._runs.items():
            everything.runs[name] = count

    @property
    def stale(self) -> list[str]:
        """The arrays that the commit left to be computed, or to be written by their user."""
        nodes = self._flow.nodes
        return [
            array
            for name, mark in self._marks.items()
            if mark is not None
            for array in (nodes[name].outputs if name in nodes else (name,))
        ]

    @property
    def recomputed(self) -> list[str]:
        """Derived arrays whose functions ran, in the order of the wave."""
        return [name for node in self.wave.ran for name in node.outputs]

    def edges(self, kind: str, changed: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The edges of a kind, (to, from), that lead from ``changed`` arrays."""
        graph = self._flow.graph
        watched = (name for name in changed if name in graph)
        return ((child, name) for name in watched for child in graph.children(name, kind))

    def undo(self) -> None:
        """The commit has not landed; may be called again."""
        self._flow.revert()


class _Words:
    """The words of arrays with the changes of a commit."""

    def __init__(self, plan: Plan, changes: Mapping[str, ArrayAfter]) -> None:
        self._plan, self._changes = plan, changes
        self._after: dict[str, np.ndarray] = {}

    def __call__(self, name: str) -> np.ndarray:
        change = self._changes.get(name)
        if change is None:
            return self._plan.words(self._plan.id_of(name))
        if name not in self._after:
            self._after[name] = change.words_after()
        return self._after[name]

    def changed(self, name: str) -> np.ndarray:
        """Which words of a changed array changed, ascending."""
        return self._changes[name].changed_words()


def _is_alike(left: LeafSpec, right: LeafSpec) -> bool:
    """Whether two arrays have one shape and dtype; PRNG keys are alike only of one kind."""
    kinds = {spec.kind for spec in (left, right) if spec.kind.startswith("key:")}
    is_same = (left.shape, left.dtype) == (right.shape, right.dtype)
    return is_same and (not kinds or {left.kind, right.kind} == kinds)


def _same_trees(left: Any, right: Any) -> bool:
    (ours, our_treedef), (theirs, their_treedef) = map(jax.tree_util.tree_flatten, (left, right))
    return is_same_treedef(our_treedef, their_treedef) and ours == theirs


def _check_same_results(old: Node, new: Node) -> None:
    """A function that returns something else for the same inputs is not pure."""
    assert old.recipe is not None
    assert new.recipe is not None
    before = dict(zip(old.outputs, old.recipe.body.outputs, strict=True))
    after = dict(zip(new.outputs, new.recipe.body.outputs, strict=True))
    if before != after:
        raise RecomputeError(
            f"{new.rule.title} returned {', '.join(map(str, after.values()))} where it returned "
            f"{', '.join(map(str, before.values()))} before, for inputs of the same shapes. "
            f"Expected a pure function; derive it again to record another result."
        )


def _needed(name: str, readers: Sequence[str]) -> StructureError:
    return StructureError(
        f"{name!r} cannot be deleted: made from it are {', '.join(map(repr, readers))}. Delete "
        f"these first, or derive them from something else."
    )


def prepare(
    derivations: Derivations,
    table: Table,
    draft: Draft,
    change: GraphEdit | None,
    shape: TreeShape | None,
) -> tuple[Draft, DerivationTransaction | None]:
    """Get ready for a commit of ``draft``; returns it with the operations that it needs."""
    if change is None and derivations.is_empty:
        return draft, None
    derivations.flow.revert()  # what two interrupts left, the second while the first was taken back
    derivations.attach_copies(table, shape)
    draft = dataclasses.replace(draft, ops=list(draft.ops), values=dict(draft.values))
    step = DerivationTransaction(derivations, table, draft, change or GraphEdit(), shape)
    try:
        step.prepare()
    except BaseException:
        step.undo()
        raise
    return draft, step
