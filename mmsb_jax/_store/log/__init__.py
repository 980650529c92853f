"""Reading a log: its segments and archives, what they hold, and the state at any version."""
