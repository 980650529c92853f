"""Weights for programs that know nothing of logs: safetensors, and directories of versions.

A `Selection` takes each `Tensor` out of a state, under the name that readers know. `tensor_file`
writes and reads files of them; `save` and `load` are for users. A `Publisher` puts one version
behind the other into a `WeightDirectory`, each with its `VersionIndex`: in full, or as what `delta`
makes of the difference.
"""
