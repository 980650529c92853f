"""Why a function was compiled again.

A `Watched` (in `watched`) calls the jitted function. If the `monitor` of `_compile` has heard of a
compilation in the meantime, it takes the `Signature` of the call (`signature`; `statics` finds the
static arguments, `values` shows them), and `explain_call` (`causes`) compares it with the nearest
earlier one: each difference is a `Cause`. A `Compilation` (`compilation`) holds them, with the
times and the caller (`call_site`), and `record` makes a commit of it. `watch_all` (`everything`)
makes a `CompiledFunction` of whatever a thread compiles.
"""
