"""A state, or a part of it, as one file of safetensors."""

from pathlib import Path

from mmsb_jax._bus.engine.session import Ref, Session
from mmsb_jax._bus.weights.tensor_file import file_buffers
from mmsb_jax._bus.weights.tensors import Selection, Tensor
from mmsb_jax._bus.weights.version_index import PREFIX, Provenance
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.state import StoredState, Table
from mmsb_jax._store.transfer.stream import write_file


def to_safetensors(session: Session, path: Path, ref: Ref | None, selection: Selection) -> Path:
    """Write what is chosen of a version; the bus is held while that is taken, and not longer."""
    with session.lock:
        session.settle()
        log = session.log
        if ref is None:
            version = log.newest_with(selection.wanted, log.version)
        else:
            version = session.number_of("ref", ref)
        state = state_at(session, version, selection)
        tensors = selection.tensors(state)
        if is_living(session, state):
            tensors = [
                Tensor(tensor.name, tensor.dtype, tensor.shape, tensor.data.copy())
                for tensor in tensors
            ]
        provenance = provenance_of(log, state.table)
    # What readers of PyTorch ask a file for; the bytes of a tensor are the same to all.
    metadata = {"format": "pt"} | {
        f"{PREFIX}{key}": str(said) for key, said in provenance._asdict().items()
    }
    return write_file(path, file_buffers(tensors, metadata))


def state_at(session: Session, version: int, selection: Selection) -> StoredState:
    """The state of a version, with the arrays that are chosen; the lock of the bus is held.

    Raises:
        VersionError: its bytes were not logged, or dropped.
    """
    return session.state_now(version, selection.wanted)


def is_living(session: Session, state: StoredState) -> bool:
    """Whether a state goes on changing: the head of the bus."""
    return session.engine is not None and state is session.engine.head.state


def provenance_of(log: Log, table: Table) -> Provenance:
    """What the state of ``table`` is, for whoever finds it outside of its log."""
    version = table.version
    return Provenance(
        log_id=log.manifest.ids.of(version).hex(),
        version=version,
        chain=log.retry_if_compacted(lambda: log.chain_at(version)).hex(),
        digest=f"{table.state_digest:016x}",
    )
