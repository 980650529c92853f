"""What every room stands on: errors, names of dtypes, words, texts, limits of memory. Imports no JAX."""
