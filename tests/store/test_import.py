import json
from pathlib import Path

import mmsb_jax._store
from tests.store._script import run_script


def test_store_imports_no_jax_in_any_of_its_modules():
    folder = Path(mmsb_jax._store.__file__).parent
    names = sorted(
        ".".join(("mmsb_jax._store", *path.relative_to(folder).with_suffix("").parts))
        for path in folder.rglob("[a-z]*.py")
    )
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
        import mmsb_jax._store.maintain.repair, mmsb_jax._store.transfer.import_

        rings = {name.split(".")[1] for name in sys.modules if name.startswith("mmsb_jax.")}
        print(sorted(rings))
    """
    assert run_script(code) == "['_base', '_display', '_store']\n"
