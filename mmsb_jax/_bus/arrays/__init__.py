"""Arrays by name, outside of any tree: create, write, resize, delete, batches."""
