"""Cleaning: what happens to a document before it is compared with others.

Reading order: `step` (change or judge); `normalise`, `language`; `gopher`, `repetition`, `c4`, `fineweb`,
`code` (rules as published); `words` (runs of words as numbers), `word_list`, `classifier`; `private`; `steps`
says which of them a source goes through, and in which order.
"""
