"""Values of a semiring: `Operations` as data, the dtypes that fit, and the laws that must hold."""
