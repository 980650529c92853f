"""`PageGraph`, what follows from what: immutable, without cycles, levelled. It imports no JAX.

A graph is `Records`: a base that was made at once (`bulk`), and what was changed since (`levels`
keeps the labels in order, and finds cycles). `reach` answers what is above and below, `draw` and
`convert` show it to others, `kinds` are those of edges.
"""
