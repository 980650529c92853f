"""Best paths from one source."""
