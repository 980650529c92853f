"""Writing a log: append, sync, rotate, close."""
