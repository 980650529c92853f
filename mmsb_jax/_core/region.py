"""Region: where one array lives in a pool."""

from dataclasses import dataclass

from mmsb_jax._core.tree.leaves import LeafSpec


@dataclass(frozen=True, slots=True)
class Region:
    """Where one array lives: whole pages of the pool, from ``page`` on.

    Attributes:
        name: path of the array in its tree, such as ``params/w``.
        spec: kind, dtype and shape.
        page: first row of the pool.
        pages: rows of the pool; 0 for an array without bytes.
        page_bytes: bytes of a row.
    """

    name: str
    spec: LeafSpec
    page: int
    pages: int
    page_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array; what remains of its last page is zero."""
        return self.spec.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.spec.shape

    @property
    def dtype(self) -> str:
        """Name of the array's dtype."""
        return self.spec.dtype
