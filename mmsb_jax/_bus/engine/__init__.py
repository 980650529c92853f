"""What keeps order between threads.

A `Session` is what all parts of one bus share. The `Engine` lands drafts, one at a time, and
settles what an interrupt cut short; the `CommitQueue` lands those that nobody waits for.
"""
