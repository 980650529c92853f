"""The deriving half of a bus: arrays that are made from others, and stay right by themselves."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import numpy as np

from mmsb_jax._base.arguments import check_choice, check_flag, check_text, show
from mmsb_jax._base.errors import ClosedError, StructureError
from mmsb_jax._bus.arrays.changes import Changes
from mmsb_jax._bus.commit import Annotation
from mmsb_jax._bus.derive.log_entries import fault_of_name
from mmsb_jax._bus.derive.reader_view import DerivedView
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.derive.transaction import GraphChange
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._bus.writing import Writing
from mmsb_jax._core.tree.leaves import qualified_name
from mmsb_jax._graph.dag.kinds import mask_of
from mmsb_jax._graph.run.node import COPY_NAME, Equal, Rule, When, copy
from mmsb_jax._graph.wave.function import DerivedGraph
from mmsb_jax._store.format.record import GRAPH_PREFIX, MAX_NAME_BYTES
from mmsb_jax._store.maintain.verify import VerifyReport
from mmsb_jax._store.query.commit import Commit

Mode = Literal["immediate", "deferred"]


@dataclass(frozen=True, slots=True)
class Derived:
    """What a bus knows of a derived array.

    Attributes:
        name: what it is called.
        inputs: the names and patterns that it is made from.
        reads: the arrays that these stand for now.
        arrays: the arrays that it makes: one of its own name, or one a leaf of what the function
            returns.
        function: qualified name of the function.
        is_attached: whether the function is here; it cannot be stored.
        when: computed with each commit, or when read.
        is_stale: whether an input has changed since it was computed.
        runs: how often its function has run in this process.
    """

    name: str
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    arrays: tuple[str, ...]
    function: str
    is_attached: bool
    when: When
    is_stale: bool
    runs: int


class Deriving(Writing):
    """What a bus can do about arrays that follow from others."""

    def _known_derivations(self) -> Derivations:
        """What is known of derived arrays once all has landed; on a reader what the log says."""
        head, derivations = self._head(), self._derivations()
        if derivations is None:
            return self._view.recorded(head)
        derivations.attach_copies(head.table, self._shape)
        return derivations

    def _derivations(self) -> Derivations | None:
        engine = self._engine_or_none
        return None if engine is None else engine.derivations

    @functools.cached_property
    def _view(self) -> DerivedView:
        """What is derived beside a reader."""
        return DerivedView()

    @overload
    def derive(
        self,
        name: str,
        inputs: str | Sequence[str],
        function: None = None,
        *,
        when: When = ...,
        equal: Equal = ...,
        pagewise: bool = ...,
        source: str = ...,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...

    @overload
    def derive(
        self,
        name: str,
        inputs: str | Sequence[str],
        function: Callable[..., Any],
        *,
        when: When = ...,
        equal: Equal = ...,
        pagewise: bool = ...,
        source: str = ...,
    ) -> Commit | None: ...

    def derive(
        self,
        name: str,
        inputs: str | Sequence[str],
        function: Callable[..., Any] | None = None,
        *,
        when: When = "commit",
        equal: Equal = "bytes",
        pagewise: bool = False,
        source: str = "",
    ) -> Any:
        """Make an array from others, and keep it right: a decorator, or a call.

        The function is traced once and compiled. It runs when an input has changed, once a commit,
        after everything that it reads, and what it makes is a part of that commit. It must be a
        pure JAX function: what it reads, it reads as arguments.

        Args:
            name: what it is called. Where the function returns a pytree, each leaf is an array
                ``name/path``.
            inputs: one name or pattern an argument. A pattern (``params/**``), or the path of a
                part of a tree, arrives as that part.
            function: what makes it; without one, this returns a decorator.
            when: ``"commit"`` computes it with each commit, ``"read"`` when somebody reads it, or
                when something is computed from it.
            equal: when a result counts as unchanged, so that nothing behind it runs: ``"bytes"``,
                ``"never"``, or a JAX function of the old and the new result.
            pagewise: for a function that works element by element: only pages with a changed byte
                are computed.
            source: who commits its first value.

        Returns:
            The commit of its first value; None inside a batch, and where nothing had to be
            computed. A name that was derived before is replaced.

        Raises:
            ArrayNotFoundError: an input that selects nothing.
            GraphCycleError: it would be made from itself; the message shows the cycle.
            RecomputeError: the function raises, looks at values, returns no arrays.
            StructureError: an array of that name was written.

        Cost: one tracing and one compilation a function and shape; then its first value.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"a": jnp.arange(3.0)})
        >>> @bus.derive("total", inputs=["a"])
        ... def total(a):
        ...     return a.sum()
        >>> bus.commit({"a": jnp.arange(4.0)[1:]}).changed
        ('a', 'total')
        >>> float(bus.read("total"))
        6.0
        """

        def take(function: Callable[..., Any]) -> Commit | None:
            rule = _checked_rule(name, inputs, function, when, equal, pagewise)
            with self._events, self._lock:
                return self._derive(rule, Annotation(None, source, None, None))

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            take(function)
            return function

        return decorate if function is None else take(function)

    def _derive(self, rule: Rule, said: Annotation) -> Commit | None:
        """Take a rule up: it, or, where the log has it already, its function alone."""
        head, derivations = self._head(), self._derivations()
        if derivations is None:
            self._view.derive(rule, head, self._shape)
            return None
        if not derivations.is_known(rule) or not derivations.attach(rule, head.table, self._shape):
            return self._land_graph(GraphChange(rules={rule.name: rule}), said)
        node = derivations.flow.nodes[rule.name]
        if not derivations.flow.is_eager(node):
            return None
        cleaning = derivations.computable(derivations.stale_above(node.outputs))
        return self._land_graph(GraphChange(cleaning=cleaning), said) if cleaning else None

    def fork(self, path: Any = None, *, version: int | str | None = None, **options: Any) -> Self:
        """A bus of its own that begins with the versions up to ``version`` (the newest for None).

        What was derived up to there is derived there too, by the same functions.

        Args:
            path: a directory for its log; in memory for None.
            version: the last version that both have, or its tag; it goes on at the next.
            **options: ``durability`` and ``snapshots``, as in `mmsb_jax.open`.

        Raises:
            VersionError: no such version, or a compaction dropped its data.
            LocationError: there is something at ``path``.

        Cost: a copy of the log up to there; on a file system that can share blocks, nothing.
        """
        bus = super().fork(path, version=version, **options)
        derivations, other = self._derivations(), bus._derivations()
        if derivations is not None and other is not None:
            state, shape = bus._head(), self._shape
            known = shape if shape is not None and checkouts.fits(state, shape) else None
            other.attach_from(derivations, state.table, known)
        return bus

    def link(
        self,
        parent: str,
        child: str,
        *,
        kind: Literal["data", "control", "device_sync", "compiler"] = "data",
        source: str = "",
    ) -> Commit | None:
        """Say that ``child`` follows from ``parent``; a commit, or inside a batch None.

        ``"data"``: the child is a copy of the parent from now on, and only that writes it. It is
        made, or is an array of the same shape and dtype that `create` or `clone` made.
        ``"control"``: the child is marked stale when the parent changes. One that is derived is
        computed again when it is read; any other waits for its user, whose next write to it, of
        the same bytes too, takes the mark away (`stale`).
        ``"device_sync"``, ``"compiler"``: labels; subscribers hear of a change of the parent.

        Raises:
            ArrayNotFoundError: no such array.
            GraphCycleError: the edge would close a cycle; the message shows it.
            StructureError: a ``"data"`` edge to an array of another shape or dtype, or of the
                committed tree; a name that no array can have.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"params": jnp.zeros(3)})
        >>> bus.create("plot", nbytes=2)
        >>> _ = bus.link("params", "plot", kind="control")
        >>> _ = bus.commit({"params": jnp.ones(3)})
        >>> bus.stale()
        ('plot',)
        >>> _ = bus.write("plot", b"ok")
        >>> bus.stale()
        ()
        """
        mask_of(kind)
        said = Annotation(None, source, None, None)
        if kind == "data":
            inputs = (_known_name("parent", parent),)
            rule = Rule(_checked_name("child", child), inputs, copy, COPY_NAME)
            with self._events, self._lock:
                return self._derive(rule, said)
        edge = (_known_name("parent", parent), _known_name("child", child), kind)
        with self._events, self._lock:
            return self._land_graph(GraphChange(links=[edge]), said)

    def unlink(
        self,
        parent: str,
        child: str,
        *,
        kind: Literal["control", "device_sync", "compiler"],
        source: str = "",
    ) -> Commit | None:
        """Take back a `link`. A derived array, a copy too, is taken back by `delete`.

        An array that is not derived is stale no longer, once no ``"control"`` edge leads to it.

        Raises:
            ArrayNotFoundError: there is no such link.
            ValueError: kind ``"data"``.
        """
        mask_of(kind)
        if kind == "data":
            raise ValueError(
                f"unlink({parent!r}, {child!r}, kind='data'): what {child!r} is made from belongs "
                f"to its rule. Delete {child!r}, or derive it from something else."
            )
        edge = (_known_name("parent", parent), _known_name("child", child), kind)
        said = Annotation(None, source, None, None)
        with self._events, self._lock:
            self._engine()
            self._settle()
            batch = self._batch
            if batch is None or batch.graph is None or edge not in batch.graph.links:
                self.graph.remove(*edge)  # refuses what is not there
            return self._land_graph(GraphChange(unlinked=[edge]), said)

    def stale(self) -> tuple[str, ...]:
        """The names of the arrays that are stale, sorted: an array that they follow from changed.

        A derived one is computed when it is read, or by `propagate`. One that is not derived, and
        that a ``"control"`` edge leads to (`link`), waits for its user to write it; what is made
        from it is stale as long. Inside a batch as before it.

        >>> import mmsb_jax as mmsb
        >>> mmsb.open().stale()
        ()
        """
        with self._events, self._lock:
            return self._known_derivations().stale_arrays()

    def page_versions(self, name: str) -> np.ndarray:
        """The version of the last commit that changed a byte of each page of an array.

        Inside a batch as before it.

        Returns:
            uint64[pages], the caller's own; 0 for a page that is as it was made.

        Raises:
            ArrayNotFoundError: no array has that name.

        Cost: a copy of them; for a reader, the nearest snapshot and the log behind it, of this
        array.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> bus.create("x", nbytes=2 * bus.page_bytes)
        >>> _ = bus.write("x", bytes(bus.page_bytes) + bytes([7]) * bus.page_bytes)
        >>> bus.page_versions("x")
        array([0, 1], dtype=uint64)
        """
        name = _known_name("name", name)
        with self._events, self._lock:
            self._settle()
            engine = self._engine_or_none
            if engine is None:
                log, pages = self._log, self.page_bytes
                state = log.state(
                    log.version, name.__eq__, page_bytes=pages, executor=self._threads
                )
                return state.page_versions[checkouts.find_array(state, name).id]
            state = engine.head.state
            array_id = state.table.ids.get(name)
            if array_id is not None:
                return state.page_versions[array_id].copy()
            info = (self._batch or Changes(state, self._made)).find(name)
            return np.zeros(-(-info.nbytes // self.page_bytes), np.uint64)

    @property
    def graph(self) -> DerivedGraph:
        """What follows from what, as it is now: drawn in a notebook, and callable as a function."""
        with self._events, self._lock:
            if self._engine_or_none is None:
                return self._view.graph(self._head())
            flow = self._known_derivations().flow
            return DerivedGraph.of(flow.graph, flow.nodes.values())

    @property
    def mode(self) -> Mode:
        """``"immediate"``: each commit computes what follows; ``"deferred"``: it marks it stale.

        What is stale is computed by `propagate`, or when it is read.
        """
        derivations = self._derivations()
        return "deferred" if derivations is not None and derivations.is_deferred else "immediate"

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if not isinstance(mode, str) or mode not in ("immediate", "deferred"):
            raise ValueError(f"mode={mode!r}: expected 'immediate' or 'deferred'")
        with self._events, self._lock:
            derivations = self._derivations()
            if derivations is None:
                raise ClosedError("this bus was opened with mode='r': it computes when read")
            self._settle()
            derivations.is_deferred = mode == "deferred"

    def propagate(self, *, source: str = "") -> Commit | None:
        """Compute what is stale and would have been computed with each commit; a commit.

        Returns:
            The commit; None where nothing was to be computed.
        """
        with self._events, self._lock:
            derivations = self._known_derivations()
            if self._engine_or_none is None:
                raise ClosedError("this bus was opened with mode='r': it computes when read")
            cleaning = derivations.deferred()
            if not cleaning:
                return None
            change = GraphChange(cleaning=cleaning)
            return self._land_graph(change, Annotation(None, source, None, None))

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        deep: bool = False,
        derive: bool = False,
    ) -> VerifyReport:
        """Read, replay and check everything: a report, true when all is well.

        Args:
            progress: called with (versions done, versions in all).
            deep: also digest, at every version, the arrays that it touched from scratch: finds a
                commit whose bytes never were what it says, where a later one has covered them.
            derive: also compute every derived array of the newest version anew, twice, and compare
                the bytes: finds functions that are not pure.

        Cost: one read of the whole log and one replay; with ``deep``, a digest of each array that a
        commit touched, a commit; with ``derive``, two runs of every function.
        """
        check_flag("derive", derive)
        with self._events, self._lock:
            report = super().verify(progress, deep=deep)
            derivations = self._derivations()
            if derive and derivations is not None:
                report.faults += derivations.check(self._head(), self._shape)
            return report

    def derived(self) -> dict[str, Derived]:
        """What is derived, by name."""
        with self._events, self._lock:
            derivations = self._known_derivations()
            stale = derivations.stale_nodes()
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
                )
                for node in sorted(derivations.flow.nodes.values(), key=lambda n: n.serial)
            }

    def read(self, name: str) -> Any:
        """The newest value of one array; inside a batch, the one written in it.

        Raises:
            ArrayNotFoundError: no array has that name; the message says which are near.

        Cost: one copy of its bytes.
        """
        name = _known_name("name", name)
        with self._events, self._lock:
            state = self._head()
            changes = self._batch
            if changes is None:
                if name not in self._made.specs:
                    return self._read(name, state)
                changes = Changes(state, self._made)
            info = changes.find(name)
            return checkouts.array_of(info, changes.bytes_of(info))

    def delete(self, name: str, *, source: str = "") -> Commit | None:
        """Delete one array that was made by name, or is derived: a commit; inside a batch, None.

        Raises:
            ArrayNotFoundError, StructureError: no such array; one of the committed tree; one that
                others are made from.
        """
        name = _known_name("name", name)
        with self._events, self._lock:
            self._engine()
            self._settle()
            if self._batch is None and name in self._made.specs:
                self._record_made(source)
            said = Annotation(None, source, None, None)
            derivations, batch = self._derivations(), self._batch
            if derivations is not None and name in derivations.flow.nodes:
                return self._land_graph(GraphChange(dropped=[name]), said)
            rules = {} if batch is None or batch.graph is None else batch.graph.rules
            if name in rules:
                if batch is not None and rules[name].is_copy and batch.has(name):
                    batch.delete(name)  # an array that was there before the link
                return self._land_graph(GraphChange(dropped=[name]), said)
            return self._change(lambda changes: changes.delete(name), said)

    def _read(self, name: str, state: Any) -> Any:
        """An array; one that is stale is computed first, where that can be."""
        derivations = self._derivations()
        if derivations is None:
            value = self._view.read(name, state)
            if value is not None:
                return value
            derivations = self._view.recorded(state)
        if derivations.stale and name in derivations.flow.makers:
            derivations.attach_copies(state.table, self._shape)
            self._clean(name, derivations)
        return checkouts.read_array(state, checkouts.find_array(state, name))

    def _clean(self, name: str, derivations: Derivations) -> None:
        above = derivations.stale_above([name])
        if not above:
            return
        able = derivations.computable(above)
        if self._engine_or_none is not None and able == above:
            self._land_graph(GraphChange(cleaning=above), Annotation(None, "", None, None))
            return
        rule = derivations.flow.makers[name].rule
        what = (
            "a reader does not compute what the log holds; derive it here to do so"
            if self._engine_or_none is None
            else f"attach the functions of {', '.join(sorted(above - able))} with derive"
        )
        warnings.warn(
            f"{rule.title} is stale: an input has changed since it was computed, and this is its "
            f"old value ({what})",
            stacklevel=4,
        )


def _checked_rule(
    name: Any, inputs: Any, function: Any, when: Any, equal: Any, pagewise: Any
) -> Rule:
    name, inputs = _checked_name("name", name), _checked_inputs(inputs)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise TypeError(f"derive({name!r}): expected a function, not async, got {show(function)}")
    check_choice("when", when, "commit", "read")
    if not callable(equal) and (not isinstance(equal, str) or equal not in ("bytes", "never")):
        raise ValueError(f"equal={show(equal)}: expected 'bytes', 'never' or a function")
    check_flag("pagewise", pagewise)
    if pagewise and callable(equal):
        raise ValueError(
            "pagewise=True with a function as equal=: an array that is never whole cannot be "
            "compared as a whole. Leave one of them out."
        )
    return Rule(name, inputs, function, qualified_name(function), when, equal, pagewise)


def _checked_name(role: str, name: Any) -> str:
    """The name of a derived array to be."""
    if not isinstance(name, str) or fault_of_name(name) is not None:
        raise StructureError(
            f"{role}={show(name)}: expected a string of 1 to {MAX_NAME_BYTES:,} bytes in UTF-8"
        )
    if name.startswith(GRAPH_PREFIX) or any(mark in name for mark in "*?"):
        raise StructureError(
            f"{role}={name!r:.80}: a name has no wildcards, and does not begin with NUL"
        )
    return name


def _known_name(role: str, name: Any) -> str:
    """What may be the name of an array that is there."""
    check_text(role, name, "the name of an array")
    return name


def _checked_inputs(inputs: Any) -> tuple[str, ...]:
    is_ordered = isinstance(inputs, Iterable) and not isinstance(inputs, Set)
    texts = (inputs,) if isinstance(inputs, str) else tuple(inputs) if is_ordered else ()
    if not texts or not all(isinstance(text, str) and text for text in texts):
        shown = texts if is_ordered else inputs
        raise TypeError(
            f"inputs={show(shown)}: expected names or patterns of arrays, in order, at least one"
        )
    return texts
