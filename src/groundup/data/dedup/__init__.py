"""Deduplication: what the corpus says twice, it says once.

Reading order: `clusters` (which are the same), `exact` (equal documents), `near` (MinHash), `passages`
(paragraphs and runs of words). Deliberately absent: the texts; all that is held here are hashes and numbers
of documents.
"""
