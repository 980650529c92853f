"""Changes of a log or a stream that keep its hashes right, so that a fuzzer gets behind them."""

import dataclasses
import random
from collections.abc import Callable, Sequence

import numpy as np
import zstandard

from mmsb_jax._store.format.frame import Kind
from mmsb_jax._store.format.record import CommitRecord, Op, OpCode
from tests.torture._bundle import Bundle, Frame, frames_of, pack, place, unpack
from tests.torture._forged_record import ForgedRecord
from tests.torture._seal import Files, seal

Mutate = Callable[[bytes], bytes]
"""Other bytes in the place of some."""

NUMBERS = (0, 1, 2, 3, 7, 8, 64, 255, 256, 2**15, 2**16 - 1, 2**16, 2**18, 2**20, 2**30, 2**31 - 1)
NUMBERS += (2**31, 2**32 - 1, 2**32, 2**40, 2**44, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

TEXTS = (
    *("", "w", "b", "../../evil", "/etc/passwd", "a\0b", "\0derive/x", "\0link/x", "\0stale/x"),
    *("jax", "numpy", "scalar", "int", "key:threefry2x32", "key:none", "float32", "|S0", "<U0"),
    *("|O", "|S2147483648", "|V8", "<M8[ns]", "<M8[99999999999s]", "bool", "int4", "float128"),
    *("complex64", ">f4", "datetime64[D]", "[]", "{}", "null", "NaN", '"\\ud800"', "\x1b[2J"),
    *("[" * 900, '{"a":' * 500, "9" * 5000, "s:" + "x" * 300, "i:9", "i:x", "f:a.b", "n:", "💾"),
    *("\ufeff{}", '{"a":"\\ud800"}', '{"a":1,"a":2}', "x" * 70_000, "[" * 200 + "]" * 200),
)  # fmt: skip


def mutated(raw: bytes, rng: random.Random, mutate: Mutate, pool: Sequence[bytes] = ()) -> bytes:
    """Another bundle, most often one whose hashes, chain and digests fit.

    Args:
        raw: a bundle, or any bytes.
        rng: chooses.
        mutate: changes bytes.
        pool: bundles to take frames from.
    """
    bundle = unpack(raw)
    if not bundle or not rng.randrange(40):
        return mutate(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice((_change_frames, _change_frames, _change_frames, _change_files))
        if bundle:
            change(bundle, rng, mutate, pool)
    if rng.randrange(8):
        bundle = _sealed(bundle, with_digests=bool(rng.randrange(3)))
    return pack(bundle)


def _sealed(bundle: Bundle, with_digests: bool) -> Bundle:
    files: Files = {}
    tails = {}
    for name, raw in bundle.items():
        files[name], tails[name] = frames_of(raw)
    seal(files, with_digests)
    return {name: b"".join(f.encode() for f in files[name]) + tails[name] for name in bundle}


def _change_files(
    bundle: Bundle, rng: random.Random, mutate: Mutate, pool: Sequence[bytes]
) -> None:
    """Drop, rename, cut, double or exchange a file; or change it without mending a hash."""
    names = list(bundle)
    name = rng.choice(names)
    match rng.randrange(6):
        case 0:
            del bundle[name]
        case 1:
            place = rng.randrange(len(name) + 1)
            digit = str(rng.randrange(10))
            bundle[(name[:place] + digit + name[place + 1 :])[:255]] = bundle.pop(name)
        case 2:
            bundle[name] = bundle[name][: rng.randrange(len(bundle[name]) + 1) // 64 * 64]
        case 3:
            bundle[name] = mutate(bundle[name])
        case 4:
            bundle[rng.choice(names)] = bundle[name]
        case 5 if pool:
            bundle.update([rng.choice(list(unpack(rng.choice(pool)).items()))])


def _change_frames(
    bundle: Bundle, rng: random.Random, mutate: Mutate, pool: Sequence[bytes]
) -> None:
    """Change one frame of a file, or the order of its frames."""
    name = rng.choice(list(bundle))
    frames, tail = frames_of(bundle[name])
    if not frames:
        return
    at = rng.randrange(len(frames))
    frame = frames[at]
    match rng.randrange(16):
        case 0:
            del frames[at]
        case 1:
            frames.insert(at, dataclasses.replace(frame))
        case 2:
            other = rng.randrange(len(frames))
            frames[at], frames[other] = frames[other], frame
        case 3 if pool:
            others = frames_of(rng.choice(list(unpack(rng.choice(pool)).values())))[0]
            frames[at:at] = rng.sample(others, min(1, len(others)))
        case 4:
            _change_header(frame, rng)
        case 5:
            frame.meta = mutate(frame.meta)
        case 6:
            frame.data = mutate(frame.data)
        case 7 | 8:
            frame.meta = _with_number(frame.meta, rng)
        case 9 if frame.kind == Kind.ARCHIVED or frame.kind == Kind.ARCHIVE:
            _change_compressed(frame, rng, mutate)
        case 9 | 10:
            _change_chunk(frame, rng, mutate)
        case _:
            frame.meta = _with_other_record(frame.meta, rng)
    if name.startswith("log/"):
        place(frames, frames[0].position if frames else 0)
    bundle[name] = b"".join(frame.encode() for frame in frames) + tail


def _change_header(frame: Frame, rng: random.Random) -> None:
    name = rng.choice(["kind", "position", "synced", "flags", "stream", "format", "claims"])
    if name == "claims":
        claim, bits = rng.choice([("meta_bytes", 32), ("data_bytes", 64), ("header_hash", 64)])
        frame.claims = {claim: rng.choice(NUMBERS) % 2**bits}
        return
    bits = {"kind": 16, "flags": 8, "stream": 32, "format": 8}.get(name, 64)
    numbers = range(16) if name == "kind" else NUMBERS
    setattr(frame, name, rng.choice(numbers) % 2**bits)


def _with_number(raw: bytes, rng: random.Random) -> bytes:
    """``raw`` with another number at an aligned place."""
    size = rng.choice((1, 2, 4, 4, 8, 8, 8))
    if len(raw) < size:
        return raw
    start = rng.randrange(len(raw) // size) * size
    before = int.from_bytes(raw[start : start + size], "little")
    number = rng.choice([*NUMBERS, before + 1, before - 1, before * 2]) % 2 ** (8 * size)
    return raw[:start] + number.to_bytes(size, "little") + raw[start + size :]


def _change_compressed(frame: Frame, rng: random.Random, mutate: Mutate) -> None:
    """Change what a part of an archive is before it is compressed."""
    try:
        raw = zstandard.ZstdDecompressor().decompress(frame.data, max_output_size=1 << 20)
    except zstandard.ZstdError:
        return
    raw = _with_number(raw, rng) if rng.randrange(2) else mutate(raw)
    frame.data = zstandard.ZstdCompressor().compress(raw)
    at = 8 if frame.kind == Kind.ARCHIVED else 0
    if len(frame.meta) >= at + 8:
        frame.meta = frame.meta[:at] + len(raw).to_bytes(8, "little") + frame.meta[at + 8 :]


def _change_chunk(frame: Frame, rng: random.Random, mutate: Mutate) -> None:
    """Give a chunk other bytes: those before compression, or any; its table says their size."""
    try:
        record = ForgedRecord.decode(frame.meta)
    except Exception:  # whatever it is, the target will meet it too
        return
    chunks = record.chunks.copy()
    if not chunks.size or record.frame_sizes:
        return
    at = rng.randrange(chunks.size)
    ends = np.cumsum(chunks["stored"], dtype=np.int64).tolist()
    start, end = ends[at] - int(chunks["stored"][at]), ends[at]
    data = frame.data[start:end]
    try:
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 20)
        data = zstandard.ZstdCompressor().compress(mutate(raw))
    except zstandard.ZstdError:
        data = mutate(data)
    chunks["stored"][at] = len(data)
    if rng.randrange(2):
        field = rng.choice(["offset", "raw", "items", "coding", "unit"])
        chunks[field][at] = rng.choice(NUMBERS) % 2 ** (8 * chunks.dtype[field].itemsize)
    record.chunks = chunks
    frame.data = frame.data[:start] + data + frame.data[end:]
    frame.meta = record.encode()


def _with_other_record(meta: bytes, rng: random.Random) -> bytes:
    """The meta of a commit that says something else, in parts that fill it."""
    try:
        record = ForgedRecord.decode(meta)
        _change_record(record, rng)
        return record.encode()
    except Exception:  # no commit; or one that cannot be written so
        return meta


def _change_record(record: CommitRecord, rng: random.Random) -> None:
    match rng.randrange(12):
        case 0:
            record.note = rng.choice(TEXTS)
        case 1:
            record.source = rng.choice(TEXTS)
        case 2 | 3:
            names = [*record.values, *TEXTS]
            record.values[rng.choice(names)] = rng.choice([*TEXTS, None])
        case 4 | 5 if record.ops:
            at = rng.randrange(len(record.ops))
            record.ops[at] = _other_op(record.ops[at], rng)
        case 6 if record.ops:
            record.ops.insert(rng.randrange(len(record.ops) + 1), rng.choice(record.ops))
        case 7 | 8:
            name = rng.choice(["records", "chunks"])
            table = getattr(record, name).copy()
            if table.size:
                field = rng.choice(table.dtype.names)
                numbers = [*range(8), *NUMBERS]
                number = rng.choice(numbers) % 2 ** (8 * table.dtype[field].itemsize)
                table[field][rng.randrange(table.size)] = number
            setattr(record, name, table)
        case 9:
            name = rng.choice(["version", "next_id", "time_ns", "changed_bytes", "flags"])
            bits = {"time_ns": 63, "flags": 5}.get(name, 64)
            setattr(record, name, rng.choice(NUMBERS) % 2**bits)
        case 10:
            record.step = rng.choice([None, -(2**63), 2**63 - 1, 0])
        case _:
            table = record.records
            if table.size:
                record.records = np.concatenate([table, table[:1]])
                record.records["chunks"][-1] = 0


def _other_op(op: Op, rng: random.Random) -> Op:
    info = op.info
    match rng.randrange(9):
        case 0:
            return Op(rng.choice(list(OpCode)), info)
        case 1:
            info = dataclasses.replace(info, dtype=rng.choice(TEXTS))
        case 2:
            info = dataclasses.replace(info, kind=rng.choice(TEXTS))
        case 3:
            info = dataclasses.replace(info, name=rng.choice(TEXTS))
        case 4:
            info = dataclasses.replace(info, id=rng.choice(NUMBERS))
        case 5 | 6 | 7:
            shape = tuple(rng.choice(NUMBERS[:20]) for _ in range(rng.randrange(3)))
            info = dataclasses.replace(info, shape=shape)
        case _:
            info = dataclasses.replace(info, shape=(*info.shape, 1) * rng.choice((1, 40)))
    return Op(op.code, info)


def random_mutate(rng: random.Random) -> Mutate:
    """What a fuzzer does to bytes, by chance alone."""

    def mutate(raw: bytes) -> bytes:
        start = rng.randrange(len(raw) + 1)
        stop = min(len(raw), start + rng.choice((1, 1, 2, 4, 8, 64)))
        match rng.randrange(4):
            case 0:
                return raw[:start] + raw[stop:]
            case 1:
                return raw[:start] + rng.randbytes(stop - start) + raw[stop:]
            case 2:
                return raw[:start] + raw[start:stop] * 2 + raw[stop:]
        return raw[:start] + rng.randbytes(rng.randrange(1, 16)) + raw[start:]

    return mutate
