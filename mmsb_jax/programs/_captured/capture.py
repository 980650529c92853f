"""Programs into a log."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmsb_jax._base.arguments import check_flag, check_kind, show
from mmsb_jax._base.errors import StructureError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax.programs._captured.arrays import SOURCE, array_of, check_name
from mmsb_jax.programs._captured.exported import check_can_export, exported_bytes
from mmsb_jax.programs._captured.load import load
from mmsb_jax.programs._captured.program import STAGES, Program
from mmsb_jax.programs._captured.rows import to_rows
from mmsb_jax.programs._captured.stages import Stages, check_program, stages_of
from mmsb_jax.programs._captured.summary import encode_summary, show_counts

_PARTS = (*STAGES, "summary", "export")
_EDGES = (
    ("jaxpr", "stablehlo"),
    ("stablehlo", "hlo"),
    ("stablehlo", "export"),
    ("hlo", "summary"),
)
_MOST_CHARACTERS = 1 << 26


def capture(
    bus: Bus,
    name: str,
    program: Any,
    *,
    stages: Sequence[str] = STAGES,
    export: bool = False,
    note: dict[str, Any] | None = None,
) -> Program:
    """Log what a function is compiled to: a commit, with ``source="compile"``.

    It is kept as arrays ``~programs/NAME/…`` of uint8, joined by edges of kind ``"compiler"``:
    ``jaxpr``, ``stablehlo`` and ``hlo``, and a ``summary`` of cost, memory and operations. They are
    no part of the committed tree.

    Args:
        bus: where to.
        name: what to call it; a name that is there already gets a new version.
        program: ``f.trace(*args)`` of a jitted function. Arrays among the arguments may be
            `jax.ShapeDtypeStruct`, or have been donated. Of ``f.lower(*args)`` there is no jaxpr,
            of its ``.compile()`` no StableHLO either.
        stages: which texts to keep.
        export: also keep what `jax.export` makes of it, to be run elsewhere.
        note: what else to write down with the commit, as JSON.

    Returns:
        The program, as `load` gives it.

    Raises:
        TypeError, ValueError: no bus, no name that can be one, no stage of a jitted function.
        ClosedError: the bus is closed, or a reader's, or a batch is open.
        StructureError: a text of more than 64 M characters: leave its stage out.
        VersionError: the newest version holds digests alone, and its tree is gone: commit one with
            ``save=True`` before.
        ImportError: ``export=True`` without flatbuffers (``mmsb-jax[export]``).
        whatever JAX raises where the program does not compile.

    What a program holds is what JAX prints of it: static arguments and what a function closes over
    are in it as far as they became constants, of which longer ones are left out. Names of files,
    lines and scopes are left out too, so that the same program from another place is equal.

    Cost: the texts, laid out with room for small changes (twice their bytes in the state). After a
    call of the function with such arguments nothing is compiled again. The same program again logs
    some hundred bytes.

    >>> import jax, jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> f = jax.jit(lambda x, y: jnp.dot(x, y))
    >>> array = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    >>> program = mmsb.programs.capture(bus, "dot", f.trace(array, array))
    >>> program.version, program.summary["arguments"], program.operations["dot"]
    (1, {'float32[8,8]': 2}, 1)
    >>> print(bus.graph)
    PageGraph: 4 nodes, 3 edges, 4 levels
    0  ~programs/dot/jaxpr
    1  ~programs/dot/stablehlo ← ~programs/dot/jaxpr (compiler)
    2  ~programs/dot/hlo ← ~programs/dot/stablehlo (compiler)
    3  ~programs/dot/summary ← ~programs/dot/hlo (compiler)
    """
    check_kind("bus", bus, Bus)
    check_name(name)
    check_program(program)
    kept = _checked_stages(stages)
    check_flag("export", export)
    if note is not None:
        check_kind("note", note, dict)
        CommitInfo(None, SOURCE, note, None)  # refuse it before what takes long
    if export:
        check_can_export(program)
    with bus._lock:
        bus._enter("capture")
    found = stages_of(program)
    contents = _contents(name, found, kept)
    if export and found.traced is not None:
        raw = exported_bytes(found.traced, found.summary["devices"])
        contents["export"] = np.frombuffer(raw, np.uint8)
    said = {"program": name, "arguments": show_counts(found.summary["arguments"])}
    with bus._events, bus._lock:
        _commit(bus, name, contents, (note or {}) | said)
        return load(bus, name)


def _checked_stages(stages: Any) -> tuple[str, ...]:
    is_list = isinstance(stages, Sequence) and not isinstance(stages, str)
    if not is_list or not all(isinstance(stage, str) and stage in STAGES for stage in stages):
        raise ValueError(f"stages={show(stages)}: expected some of {', '.join(map(repr, STAGES))}")
    return tuple(stages)


def _contents(name: str, found: Stages, kept: Sequence[str]) -> dict[str, np.ndarray]:
    """What becomes of each array of the program; of a stage that is not kept, nothing is left."""
    contents = {}
    for stage in STAGES:
        text = found.texts.get(stage, "") if stage in kept else ""
        if len(text) > _MOST_CHARACTERS:
            raise StructureError(
                f"the {stage} of program {name!r} has {len(text):,} characters; at most "
                f"{_MOST_CHARACTERS:,} are kept. Leave it out: stages=[…] without {stage!r}."
            )
        contents[stage] = to_rows(text)
    return contents | {"summary": to_rows(encode_summary(found.summary))}


def _commit(bus: Bus, name: str, contents: dict[str, np.ndarray], note: dict[str, Any]) -> None:
    """Write the arrays of a program, in one commit; the bus is held."""
    engine = bus._enter("capture")
    bus._tree_writer().save_last()
    engine.check_saved()
    table = engine.head.state.table
    known = {part for part in _PARTS if array_of(name, part) in table.ids}
    with bus.batch(source=SOURCE, note=note):
        for part in _PARTS:
            if part in contents:
                change = bus.resize if part in known else bus.create
                change(array_of(name, part), contents[part].shape, np.uint8)
                bus.write(array_of(name, part), contents[part])
            elif part in known:
                bus.resize(array_of(name, part), (0,), np.uint8)  # it was of an earlier version
        for parent, child in _EDGES:
            if child in contents and child not in known:
                bus.link(array_of(name, parent), array_of(name, child), kind="compiler")
