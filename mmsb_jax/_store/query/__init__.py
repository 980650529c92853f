"""What can be asked of a log: commits, differences, patches, what lands next."""
