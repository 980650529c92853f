"""The usual semirings, named as in GraphBLAS."""

import jax.numpy as jnp

from mmsb_jax.algebra._matrix import dense
from mmsb_jax.algebra._semiring import Semiring, make_known
from mmsb_jax.algebra._values import arithmetic
from mmsb_jax.algebra._values.operations import BOOL, FLOATS, SIGNED, UNSIGNED

lor_land = Semiring(
    "lor_land",
    jnp.logical_or,
    jnp.logical_and,
    zero=False,
    one=True,
    dtypes=BOOL,
    idempotent=True,
    selective=True,
    bounded=True,
    reduce=jnp.any,
    product=dense.lor_land_product,
)
"""Or and and: reachability, who is dirty."""

min_plus = Semiring(
    "min_plus",
    jnp.minimum,
    arithmetic.min_plus_multiply,
    zero=arithmetic.highest,
    one=0,
    dtypes=SIGNED + UNSIGNED + FLOATS,
    idempotent=True,
    selective=True,
    reduce=jnp.min,
    converges=arithmetic.not_negative,
    endless=arithmetic.lowest,
)
"""The tropical semiring: the cheapest path. +∞ + (−∞) is +∞."""

max_plus = Semiring(
    "max_plus",
    jnp.maximum,
    arithmetic.max_plus_multiply,
    zero=arithmetic.lowest,
    one=0,
    dtypes=SIGNED + FLOATS,
    idempotent=True,
    selective=True,
    reduce=jnp.max,
    converges=arithmetic.not_positive,
    endless=arithmetic.highest,
)
"""The longest path, levels, the time at which all that is needed is there. −∞ + ∞ is −∞."""

max_times = Semiring(
    "max_times",
    jnp.maximum,
    arithmetic.max_times_multiply,
    zero=0,
    one=1,
    dtypes=SIGNED + UNSIGNED + FLOATS,
    idempotent=True,
    selective=True,
    reduce=jnp.max,
    contains=arithmetic.not_negative,
    converges=arithmetic.at_most_one,
    endless=arithmetic.highest,
)
"""The most probable path, on values that are not negative. 0 · ∞ is 0."""

max_min = Semiring(
    "max_min",
    jnp.maximum,
    jnp.minimum,
    zero=arithmetic.lowest,
    one=arithmetic.highest,
    dtypes=SIGNED + UNSIGNED + FLOATS,
    idempotent=True,
    selective=True,
    bounded=True,
    reduce=jnp.max,
)
"""The widest path: a path is as wide as its narrowest edge."""

plus_times = Semiring(
    "plus_times",
    jnp.add,
    jnp.multiply,
    zero=0,
    one=1,
    dtypes=SIGNED + UNSIGNED + FLOATS,
    reduce=arithmetic.sum_along,
    product=dense.plus_times_product,
    contains=arithmetic.finite,
    closure=arithmetic.plus_times_closure,
    converges=arithmetic.within_one,
)
"""Numbers as everywhere: path counts, matrices. Integers wrap, floats are IEEE's."""

log = Semiring(
    "log",
    arithmetic.log_add,
    arithmetic.max_plus_multiply,
    zero=arithmetic.lowest,
    one=0,
    dtypes=FLOATS,
    reduce=arithmetic.log_sum_along,
    product=dense.log_product,
    contains=arithmetic.below_infinity,
    closure=arithmetic.log_closure,
    converges=arithmetic.negative,
)
"""log-sum-exp and +: probabilities added up over all paths, as logarithms."""

INSTANCES = (lor_land, min_plus, max_plus, max_times, max_min, plus_times, log)
"""All of the above."""

for _semiring in INSTANCES:
    make_known(_semiring)
