"""Commands that write, or make a log."""
