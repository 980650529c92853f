"""The newest arrays of another process's log, kept up to date.

A `Replica` reads commits of a log, `ReplicaArrays` brings its arrays from one version to a later
one, each a `ResidentArray` on the device or the host.
"""
