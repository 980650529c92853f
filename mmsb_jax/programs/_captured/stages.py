"""What JAX and XLA say of a program: its texts, without what depends on where it was written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jaxlib
from jax.stages import Compiled, Lowered, Traced

from mmsb_jax._base.arguments import show
from mmsb_jax.programs._captured.summary import (
    Summary,
    count_types,
    describe_text,
    operations_in,
)

_MOST_ELEMENTS = 16
"""Elements of a constant that StableHLO shows; those of a longer one are left out."""
_WIDTH = 100

_ADDRESS = re.compile(r" at 0x[0-9a-fA-FX]+")
_METADATA = re.compile(r', metadata=\{(?:[^"{}]|"(?:[^"\\]|\\.)*"|\{[^{}]*\})*\}')
_STACK_TABLES = re.compile(
    r"(?m)^(?:FileNames|FunctionNames|FileLocations|StackFrames)\n(?:\d+ .*\n)*\n*"
)


@dataclass(frozen=True, slots=True)
class Stages:
    """A program, taken apart.

    Attributes:
        texts: the text of each stage that there is.
        summary: what is said of it.
        traced: what was traced; None where that is not known.
    """

    texts: dict[str, str]
    summary: Summary
    traced: Traced | None


def stages_of(program: Any) -> Stages:
    """Lower and compile a program, as far as that is to be done, and take it apart.

    Raises:
        TypeError: it is none.
        whatever JAX raises where it cannot be lowered or compiled.
    """
    traced = program if isinstance(program, Traced) else None
    lowered = program if traced is None else traced.lower()
    compiled = lowered.compile() if isinstance(lowered, Lowered) else lowered
    if not isinstance(compiled, Compiled):
        raise _not_a_program(program)
    texts = {}
    if traced is not None:
        texts["jaxpr"] = _jaxpr_of(traced)
    if isinstance(lowered, Lowered):
        texts["stablehlo"] = _stablehlo_of(lowered)
    if hlo := compiled.as_text():
        texts["hlo"] = without_places(hlo)
    return Stages(texts, _summary_of(compiled, texts), traced)


def check_program(program: Any) -> None:
    """Refuse what is no stage of a function on its way to be compiled."""
    if not isinstance(program, Traced | Lowered | Compiled):
        raise _not_a_program(program)


def _not_a_program(program: Any) -> TypeError:
    what = "f.trace(*args), which takes jax.ShapeDtypeStruct for arrays too"
    if hasattr(program, "trace"):
        remedy = f"give {what}"
    elif callable(program):
        remedy = f"jit it, f = jax.jit(…), and give {what}"
    else:
        remedy = f"expected {what}; f.lower(*args) and its .compile() are fine too"
    return TypeError(f"program={show(program)}: a {type(program).__name__} arrived; {remedy}")


def _jaxpr_of(traced: Traced) -> str:
    # A function that a jaxpr holds is printed with its address, which says nothing.
    printed = traced.jaxpr.pretty_print(use_color=False, width=_WIDTH)
    return _ADDRESS.sub("", printed)


def _stablehlo_of(lowered: Lowered) -> str:
    module: Any = lowered.compiler_ir("stablehlo")
    return module.operation.get_asm(large_elements_limit=_MOST_ELEMENTS)


def without_places(hlo: str) -> str:
    """HLO without its metadata and tables of stack frames: names of scopes, files and lines."""
    return _STACK_TABLES.sub("", _METADATA.sub("", hlo)).strip("\n") + "\n"


def _summary_of(compiled: Compiled, texts: dict[str, str]) -> Summary:
    devices = _devices_of(compiled)
    operations = operations_in(texts.get("hlo", ""))
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "arguments": count_types(map(_type_of, jax.tree.leaves(compiled.in_avals))),
        "results": count_types(map(_type_of, jax.tree.leaves(compiled.out_info))),
        "donated": len(compiled.donate_argnums),
        **_cost_of(compiled),
        **_memory_of(compiled),
        "operations": operations,
        "fusions": operations.get("fusion", 0) if "hlo" in texts else None,
        "stages": {stage: describe_text(text) for stage, text in texts.items()},
    }


def _type_of(aval: Any) -> str:
    weak = "weak " if getattr(aval, "weak_type", False) else ""
    return f"{weak}{aval.dtype}[{','.join(map(str, aval.shape))}]"


def _devices_of(compiled: Compiled) -> list[Any]:
    """The devices that it runs on; it may have no arrays that say so."""
    shardings: Iterable[Any] = jax.tree.leaves(
        (compiled.input_shardings, compiled.output_shardings)
    )
    found = {
        device
        for sharding in shardings
        if isinstance(sharding, jax.sharding.Sharding)
        for device in sharding.device_set
    }
    return sorted(found, key=lambda device: device.id) or jax.local_devices()[:1]


def _cost_of(compiled: Compiled) -> dict[str, float | None]:
    said = _ask(compiled.cost_analysis) or {}
    names = {
        "flops": "flops",
        "transcendentals": "transcendentals",
        "bytes_accessed": "bytes accessed",
    }
    return {key: _figure(said.get(name)) for key, name in names.items()}


def _memory_of(compiled: Compiled) -> dict[str, int | None]:
    said = _ask(compiled.memory_analysis)
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    figures = {kind: getattr(said, f"{kind}_size_in_bytes", None) for kind in kinds}
    return {f"{kind}_bytes": figure for kind, figure in figures.items()}


def _ask(analysis: Any) -> Any:
    """What an analysis gives; None where the backend has none."""
    try:
        return analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _figure(value: Any) -> float | None:
    """A figure as a number that JSON has; XLA says −1 for what it does not know."""
    if value is None or not 0 <= value < float("inf"):
        return None
    return int(value) if value == int(value) else float(value)
