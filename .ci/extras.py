#!/usr/bin/env python3
"""Resolve the extras: who finds what cannot be installed is not a user.

Where all together resolve, so does each alone, with the same packages; where they do not, each is
tried, to say which it is. Installs nothing. Give it a new pip: one that asks the registry what a
package needs, and leaves the package (gigabytes of CUDA) where it is.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

PIP = (sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input")


def main() -> int:
    """1 where an extra does not resolve."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = list(project["optional-dependencies"])
    if _resolves(",".join(extras)):
        return 0
    for extra in extras:
        _resolves(extra)
    return 1


def _resolves(names: str) -> bool:
    ran = subprocess.run(
        (*PIP, "--use-feature=fast-deps", "--editable", f".[{names}]"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"{names}: {'resolves' if ran.returncode == 0 else 'DOES NOT RESOLVE'}", flush=True)
    if ran.returncode:
        print(*ran.stdout.splitlines()[-20:], sep="\n")
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
