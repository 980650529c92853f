"""The process in which Atheris tries the decoder: ``CORPUS [flags of libFuzzer]``.

The corpus is what it goes on from; an empty one is filled with the seeds. It ends at the first
input that leads to an error which is not the library's own, takes too long, or too much memory.
"""

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mmsb_jax._store"]):
    from tests.torture._bundle import pack
    from tests.torture._mutate import mutated
    from tests.torture._reading import small_machine, try_bundle
    from tests.torture._seeds import seeds


def main() -> None:
    """Fill the corpus, and try inputs until the flags say that it is enough."""
    pool = [pack(bundle) for bundle in seeds()]
    corpus = Path(sys.argv[1])
    if not any(corpus.iterdir()):
        for number, raw in enumerate(pool):
            (corpus / f"seed-{number:02d}").write_bytes(raw)

    def mutate(raw: bytes, most_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = mutated(raw, rng, lambda part: atheris.Mutate(part, len(part) + 64), pool)
        return changed[:most_bytes]

    atheris.Setup(sys.argv, try_bundle, custom_mutator=mutate)
    with small_machine():
        atheris.Fuzz()


if __name__ == "__main__":
    main()
