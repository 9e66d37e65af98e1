"""Deduplication: `clusters` (union-find), `exact` (equal texts), `near` (MinHash)."""
