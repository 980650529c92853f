"""Traced functions that can be told apart, and the programs that they are compiled to.

`trace` makes a `Body` of a function: equal bodies have one text, and are compiled once. A
`SharedProgram` is a compiled function that runs at once, whatever the user's settings of JAX. What
JAX compiles is heard of in `monitor`; a `ProgramLog` (`made`) is what a bus has compiled, and why.
"""
