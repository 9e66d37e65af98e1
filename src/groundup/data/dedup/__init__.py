"""Deduplication of documents (exact, MinHash) and of passages within them.

    union_find.py     disjoint sets of document numbers
    document_keys.py  exact and MinHash band keys, in memory and on disk
    minhash.py        MinHash with banding
    passages.py       repeated paragraphs and n-grams
    duplicates.py     decisions: find_duplicates, deduplicate, and the stage's second pass

Memory holds hashes and document numbers only, never texts.
"""
