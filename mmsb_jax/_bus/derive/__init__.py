"""Derived arrays: what is known of them, what a commit does to them, what the log keeps."""
