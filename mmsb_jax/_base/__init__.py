"""What every package stands on: errors, dtypes, words, texts, limits. It imports no JAX.

`errors` is the tree of exceptions; `arguments` checks what callers pass. `texts`, `strict_json` and
`dtypes` are what stands in logs as text; `words` and `digest_mix` are the unit of storage and what
is summed of it. `memory_limit` refuses what a machine cannot hold, `patterns` selects by name.
"""
