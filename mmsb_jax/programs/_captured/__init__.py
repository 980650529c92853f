"""What functions were compiled to, kept in a log.

`capture` takes the `Stages` of a program from JAX, lays each text out in `rows`, so that a small
change of it is a small delta, and commits them as arrays with a `summary` beside them. `arrays`
says what these arrays are called and finds them in a log; `load` does so on a bus. Both make a
`Program`, and `diff` holds two of these against each other. `exported` is what ``jax.export``
makes.

All but `capture`, `stages`, `exported` and `load` start without JAX.
"""
