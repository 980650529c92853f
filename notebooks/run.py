"""Run every notebook of this folder from its first cell to its last; a cell that fails ends it."""

import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).parent
_KERNEL = "mmsb-notebooks"


def main() -> None:
    """Run them in a directory of their own, with this interpreter as their kernel."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _register_kernel(folder)
        for path in sorted(HERE.glob("*.ipynb")):
            notebook = nbformat.read(path, as_version=4)
            work = folder / path.stem
            work.mkdir()
            client = NotebookClient(
                notebook,
                timeout=300,
                kernel_name=_KERNEL,
                resources={"metadata": {"path": str(work)}},
                config=Config(ConnectionFileMixin={"transport": "ipc", "ip": str(folder / "ipc")}),
            )
            client.execute()
            cells = sum(cell.cell_type == "code" for cell in notebook.cells)
            print(f"{path.name}: {cells} cells run")


def _register_kernel(folder: Path) -> None:
    """Name this interpreter as a kernel, for this process alone; its files go to ``folder``."""
    spec = folder / "share" / "kernels" / _KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": _KERNEL, "language": "python"}))
    os.environ["JUPYTER_PATH"] = str(folder / "share")
    os.environ["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
    os.environ["IPYTHONDIR"] = str(folder / "ipython")


if __name__ == "__main__":
    main()
