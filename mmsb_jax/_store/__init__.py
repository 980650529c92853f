"""The log on disk: frames, segments, snapshots, recovery. It imports no JAX."""
