"""Commands that read a log."""
