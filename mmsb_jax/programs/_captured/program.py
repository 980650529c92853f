"""A program as users see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmsb_jax._base.arguments import check_choice
from mmsb_jax._display.html import html_table, html_text
from mmsb_jax._display.text import aligned, printable
from mmsb_jax.programs._captured.rows import to_text
from mmsb_jax.programs._captured.summary import (
    FIGURES,
    ProgramCost,
    ProgramMemory,
    Summary,
    show_counts,
    show_figure,
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Program:
    """What a function was compiled to, as a version of a log has it; prints as a table.

    Attributes:
        name: what it is called.
        version: the commit that captured it.
        summary: all that is said of it, ready for JSON: types of arguments and results, figures of
            cost and memory, operations by kind, versions of JAX; the caller's own.

    Its texts are read from the log when they are asked for. They hold no paths and lines of source
    files, and no constants of more than a few elements. None is a stage that was not captured.

    >>> import jax, jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> program = mmsb.programs.capture(bus, "sum", jax.jit(jnp.sum).trace(jnp.ones(4)))
    >>> program.memory.argument_bytes, program.summary["arguments"]
    (16, {'float32[4]': 1})
    >>> print(program.jaxpr)
    { lambda ; a:f32[4]. let b:f32[] = reduce_sum[axes=(0,) out_sharding=None] a in (b,) }
    """

    name: str
    version: int
    summary: Summary
    _read: Callable[[str], bytes]

    @property
    def jaxpr(self) -> str | None:
        """What JAX traced.

        Raises:
            VersionError: a compaction has dropped it.
        """
        return self._text("jaxpr")

    @property
    def stablehlo(self) -> str | None:
        """What JAX gave to XLA: StableHLO, as MLIR prints it. Raises as `jaxpr`."""
        return self._text("stablehlo")

    @property
    def hlo(self) -> str | None:
        """What XLA made of it: the optimised HLO. Raises as `jaxpr`."""
        return self._text("hlo")

    @property
    def exported(self) -> bytes | None:
        """What `jax.export.deserialize` reads, where it was captured with ``export=True``."""
        return self._read("export") or None

    @property
    def cost(self) -> ProgramCost:
        """What a run of it takes, as XLA estimates it."""
        said = self.summary.get
        return ProgramCost(said("flops"), said("transcendentals"), said("bytes_accessed"))

    @property
    def memory(self) -> ProgramMemory:
        """The memory that it takes on a device."""
        said = self.summary.get
        return ProgramMemory(
            said("argument_bytes"),
            said("output_bytes"),
            said("alias_bytes"),
            said("temp_bytes"),
            said("generated_code_bytes"),
        )

    @property
    def operations(self) -> dict[str, int]:
        """How many operations of each kind the HLO has, inner ones of fusions too."""
        return dict(self.summary["operations"])

    @property
    def fusions(self) -> int | None:
        """How many fusions the HLO has; None where there is no HLO."""
        return self.summary.get("fusions")

    def text(self, stage: str) -> str | None:
        """The text of a stage: ``"jaxpr"``, ``"stablehlo"`` or ``"hlo"``.

        Raises:
            ValueError: no such stage.
            VersionError: a compaction has dropped it.
        """
        check_choice("stage", stage, *STAGES)
        return self._text(stage)

    def _text(self, stage: str) -> str | None:
        return to_text(self._read(stage)) or None

    def to_dict(self) -> dict[str, Any]:
        """All but the texts, ready for JSON."""
        return {"name": self.name, "version": self.version, **self.summary}

    def _rows(self) -> list[tuple[str, str]]:
        """What a table of it shows."""
        figures = [
            (title, show_figure(self.summary[key]))
            for key, title in FIGURES.items()
            if self.summary.get(key) is not None
        ]
        texts = {
            stage: f"{self.summary['stages'][stage]['characters']:,} characters"
            for stage in STAGES
            if stage in self.summary["stages"]
        }
        shown = [*figures, ("operations", show_counts(self.operations)), *texts.items()]
        return [(printable(name), printable(value)) for name, value in shown]

    def __repr__(self) -> str:
        return f"<Program {title_of(self)}>"

    def __str__(self) -> str:
        return "\n".join([title_of(self), *aligned(self._rows())])

    def _repr_html_(self) -> str:
        return html_text(title_of(self)) + html_table(self._rows())


def title_of(program: Program) -> str:
    """One line: ``train, version 3``."""
    return f"{printable(program.name)}, version {program.version}"


STAGES = ("jaxpr", "stablehlo", "hlo")
"""The texts of a program, in the order in which one becomes the other."""
