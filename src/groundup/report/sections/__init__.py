"""One file for each section of a report: from the facts of a run to words, tables and drawings.

In the order of the report: `cover`, `planned`, `text` (where it came from), `corpus` (what it holds), `tokens`, `learning`,
`scores`, `speech` (samples and chat), `bits`, `use`, `provenance`, `recipe`. Each returns None where the run has nothing to
tell of it.
"""
