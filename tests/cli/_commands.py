"""Every command, as it is used: what holds for all of them is tried with each."""

from pathlib import Path

COMMANDS: dict[str, tuple[str, ...]] = {
    "log": ("log", "LOG"),
    "show": ("show", "LOG"),
    "diff": ("diff", "LOG", "0", "1"),
    "diff-runs": ("diff", "LOG", "LOG"),
    "bisect": ("bisect", "LOG", "--nonfinite"),
    "history": ("history", "LOG", "params/w"),
    "notes": ("notes", "LOG", "loss"),
    "programs": ("programs", "LOG"),
    "usage": ("usage", "LOG"),
    "verify": ("verify", "LOG"),
    "stats": ("stats", "LOG"),
    "follow": ("follow", "LOG", "--after", "0", "--timeout", "0"),
    "tags": ("tag", "LOG"),
    "tag": ("tag", "LOG", "best"),
    "compact": ("compact", "LOG", "--keep-since", "1"),
    "checkout": ("checkout", "LOG", "--out", "OUT"),
    "checkout-npz": ("checkout", "LOG", "--out", "OUT.npz"),
    "fork": ("fork", "LOG", "OUT"),
    "export": ("export", "LOG", "OUT"),
    "import": ("import", "LOG", "STREAM"),
    "repair": ("repair", "LOG", "OUT"),
}

MAKING = ("checkout", "checkout-npz", "fork", "export", "repair")
"""Those that make a file or a directory."""


def words(command: str, log: object, out: object = "out", stream: object = "stream") -> list[str]:
    """The arguments of a command, with its places."""
    places = {"LOG": log, "OUT": out, "OUT.npz": f"{out}.npz", "STREAM": stream}
    return [str(places.get(word, word)) for word in COMMANDS[command]]


def tree_of(root: Path) -> dict[str, object]:
    """All that is in a directory: bytes of files, what links say, the kinds of the others.

    But for the file that a writer locks, which it leaves.
    """

    def content(path: Path) -> object:
        if path.is_symlink():
            return path.readlink()
        return path.read_bytes() if path.is_file() else path.stat().st_mode

    return {
        str(path.relative_to(root)): content(path)
        for path in root.rglob("*")
        if path.name != "lock"
    }
