"""The bus: a head, a log, a queue. The only place with state."""
