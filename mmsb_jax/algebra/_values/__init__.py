"""Values of a semiring: operations, dtypes, laws."""
