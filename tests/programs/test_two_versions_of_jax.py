"""A program of two versions of JAX in one log: the older one writes it, the newer one goes on."""

from pathlib import Path

import pytest

import mmsb_jax as mmsb
from mmsb_jax import programs
from tools.compare_jax import NAME, captured, write

ROOT = Path(__file__).parents[2]
PYTHONS = [ROOT / venv / "bin" / "python" for venv in (".venv", ".venv-newest")]


def test_what_an_upgrade_of_jax_changes_is_found(tmp_path):
    missing = [str(python) for python in PYTHONS if not python.exists()]
    if missing:
        pytest.skip(f"needs both environments of .ci/run; there is no {', '.join(missing)}")
    log = tmp_path / "run.mmsb"
    for python in PYTHONS:
        write(str(python), log)
    old, new = captured(log)
    if old.summary["jax"] == new.summary["jax"]:
        pytest.skip(f"both environments have JAX {old.summary['jax']}")
    figures = {change.what: change for change in programs.diff(old, new).figures}
    assert (figures["JAX"].old, figures["JAX"].new) == (old.summary["jax"], new.summary["jax"])
    assert "arguments" not in figures
    with mmsb.open(log, mode="r") as bus:  # with whichever of the two this is
        for version in (1, 2):
            program = programs.load(bus, NAME, version)
            assert program.hlo.startswith("HloModule jit_step")
            assert program.stablehlo.startswith("module @jit_step")
