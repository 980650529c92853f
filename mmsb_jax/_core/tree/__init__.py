"""Pytrees as the library sees them: leaves, their bytes and names, nodes, static fields.

`describe` makes a `LeafSpec` (or a `Constant`) of a leaf, `rebuild` the leaf of its bytes; `words`
does both on the device. `paths` names leaves, `nodes` knows where each node begins and ends, and
`Static` is the text of what is no leaf.
"""
