"""What users ask to be written, as drafts for the engine.

`TreeWriter` commits trees. `ArrayWriter` commits arrays by name: it fills a `DraftBuilder`, in a
`Batch` or one call at a time. `DerivedArrays` does the same for what is made from others.
"""
