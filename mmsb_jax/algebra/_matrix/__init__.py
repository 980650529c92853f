"""Sparse matrices and their products in any semiring.

`SparseMatrix` has its entries in `Groups`, laid out for `pull`; `product` chooses between that and
a dense one, a `ProductPlan` is the structure of a product of two, `star` is the closure.
"""
