"""Sparse matrices and their products in any semiring."""
