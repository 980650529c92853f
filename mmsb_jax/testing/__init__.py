"""What tests of state need: an oracle, checks of what must hold, and Hypothesis strategies.

- `oracle`: every operation of the core again, byte by byte in NumPy; imports no JAX.
- `check_pages`, `check_delta`, `check_log`, `check_page_table`: what holds of every value that
  the core returns.
- `graphs`: Kronecker graphs and grids, in NumPy.
- `strategies`: Hypothesis strategies of trees, layouts, pages, deltas and logs. The only module
  that needs Hypothesis; import it by itself: ``from mmsb_jax.testing import strategies``.
"""

from mmsb_jax.testing import oracle
from mmsb_jax.testing._invariants import (
    check_delta,
    check_log,
    check_page_table,
    check_pages,
)

__all__ = ["check_delta", "check_log", "check_page_table", "check_pages", "oracle"]
