"""The format of a log's files: frames, records, names, and every limit."""
