import json
from pathlib import Path

import mmsb_jax.store
from tests.store._script import run_script


def test_store_imports_no_jax_in_any_of_its_modules():
    folder = Path(mmsb_jax.store.__file__).parent
    names = sorted(f"mmsb_jax.store.{path.stem}" for path in folder.glob("_[a-z]*.py"))
    assert len(names) > 15
    code = """
        import importlib, json, sys

        for name in json.loads(sys.argv[1]):
            importlib.import_module(name)
        print([name for name in sys.modules if name.split(".")[0] in ("jax", "jaxlib", "equinox")])
    """
    assert run_script(code, json.dumps(names)) == "[]\n"


def test_store_imports_inwards_only():
    """Importing it loads no other ring of the library."""
    code = """
        import sys
        import mmsb_jax.store._head, mmsb_jax.store._verify, mmsb_jax.store._fork

        rings = {name.split(".")[1] for name in sys.modules if name.startswith("mmsb_jax.")}
        print(sorted(ring for ring in rings if not ring.startswith("_")))
    """
    assert run_script(code) == "['store']\n"
