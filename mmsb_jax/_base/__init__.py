"""What every package stands on: errors, dtypes, words, texts, limits. It imports no JAX."""
