"""The newest arrays of another process's log, kept up to date."""
