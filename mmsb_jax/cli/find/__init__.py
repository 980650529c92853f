"""Commands that look for something along the history of a log, or by name."""
