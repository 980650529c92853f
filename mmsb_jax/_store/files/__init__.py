"""Files, directories, locks and threads: all that the store asks of the operating system.

`Files` is the protocol, `DiskFiles` and `MemoryFiles` are what there is of it. A `WriterLock` is
the right to write a directory, `local` refuses those on a network. A `Descriptor` is lost to no
interrupt, `Threads` may fail to start, `unreadable` says why a read failed.
"""
