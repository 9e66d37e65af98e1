"""The ground that every chapter stands on: folders that are complete or absent, and a record in each.

Reading order: `errors` (what a user is told), `fingerprint` (when two things are the same), `manifest` (the record),
`directory` (how a folder becomes complete), `machine` (where we run), `rank_environment` (rank and world size),
`progress` (what long work shows), `security_headers` (of the HTTP servers), `printable`
(foreign text made fit to be shown), `screen` (a terminal as one picture), `listen` (a socket).

Deliberately absent: torch, and anything that knows what a stage computes.
"""
