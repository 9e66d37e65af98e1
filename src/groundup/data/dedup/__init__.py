"""Deduplication: what the corpus says twice, it says once.

Reading order: `clusters` (which are the same), `keys` (what documents are compared by), `near` (equal documents, and
MinHash), `passages` (paragraphs and runs of words), `memory` (what all this holds), `verdicts` (what comes of it).
Deliberately absent: the texts; all that is held here are hashes and numbers of documents.
"""
