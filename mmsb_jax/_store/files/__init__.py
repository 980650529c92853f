"""Files, directories, locks and threads: all that the store asks of the operating system."""
