"""The state of a log at one version, and its snapshots."""
