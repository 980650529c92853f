"""What importing the core and its oracle brings in, seen in a fresh process."""

import json
import pkgutil
import subprocess
import sys

import mmsb_jax._core

MODULES = [
    module.name for module in pkgutil.walk_packages(mmsb_jax._core.__path__, "mmsb_jax._core.")
]


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
    outer = ("_bus", "_store", "cli", "demo", "testing")
    assert not below(names, *(f"mmsb_jax.{ring}" for ring in outer))


def test_core_imports_no_test_tools():
    assert not below(imported_by(*MODULES), "hypothesis", "pytest", "chex", "beartype")


def test_import_of_the_package_imports_nothing_of_it():
    names = imported_by("mmsb_jax")
    assert below(names, "mmsb_jax") == {"mmsb_jax"}
    assert not below(names, "jax", "numpy")


def test_oracle_imports_neither_jax_nor_hypothesis():
    names = imported_by("mmsb_jax.testing", "mmsb_jax.testing.oracle")
    assert not below(names, "jax", "jaxlib", "equinox", "hypothesis", "mmsb_jax._core")
