"""What importing the core and its oracle brings in, seen in a fresh process."""

import json
import pkgutil
import subprocess
import sys

import mmsb_jax.core

MODULES = [
    f"mmsb_jax.core.{module.name}" for module in pkgutil.iter_modules(mmsb_jax.core.__path__)
]

# The constants of the digest's mix have one place, and the store may not import JAX.
ALLOWED = {"mmsb_jax.store", "mmsb_jax.store._digest"}


def imported_by(*modules):
    """Names of the modules that are there after an import of ``modules``."""
    code = f"""
import importlib, json, sys
for module in {modules!r}:
    importlib.import_module(module)
print(json.dumps(list(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout))


def below(names, *packages):
    return {
        name
        for name in names
        if name in packages or name.startswith(tuple(f"{p}." for p in packages))
    }


def test_core_imports_no_outer_ring():
    names = imported_by(*MODULES)
    assert set(MODULES) <= names
    assert not below(names, "mmsb_jax.bus", "mmsb_jax.cli", "mmsb_jax.observe", "mmsb_jax.testing")
    assert below(names, "mmsb_jax.store") == ALLOWED


def test_core_imports_no_test_tools():
    assert not below(imported_by(*MODULES), "hypothesis", "pytest", "chex", "beartype")


def test_import_of_the_package_imports_nothing_of_it():
    names = imported_by("mmsb_jax")
    assert below(names, "mmsb_jax") == {"mmsb_jax"}
    assert not below(names, "jax", "numpy")


def test_oracle_imports_neither_jax_nor_hypothesis():
    names = imported_by("mmsb_jax.testing", "mmsb_jax.testing.oracle")
    assert not below(names, "jax", "jaxlib", "equinox", "hypothesis", "mmsb_jax.core")
