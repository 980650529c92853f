"""What is done to a whole log: create, fork, compact, verify, repair."""
