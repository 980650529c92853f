"""The format of a log's files: frames, records, names, and every limit.

Every file is `frame`s. A commit is data frames and one with its `CommitRecord` (`record`), whose
table of `Chunk`s says what the data are; `data` lays them out and finds them again. `chain` is
what follows from what, `names` the names of files; `manifest`, `index` and `tags` are frames of
their own.
"""
