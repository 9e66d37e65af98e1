"""Cleaning: what happens to a document before it is compared with others.

Reading order: `step` (change or judge), `normalise`, `language`, `gopher`, `private`; `steps` says which of them a kind of
source goes through, and in which order.
"""
