"""`PageGraph`, what follows from what: immutable, without cycles, levelled. It imports no JAX."""
