"""3. Text: from crawls, dumps, books and code to clean documents, every drop counted under its reason.

Reading order: `place` and `download`, `package_index`, `archive` (where files come from), `identity` and `seen` (when
they are the same), `readers` (what each kind of file says), `clean` (what must not pass), `dedup` and `decontaminate`
(what was seen before), `funnel` (what became of every document), `units`, `unit`, `rows`, `shuffle`, `engine` (the work,
in pieces that are whole or absent), `stage`; `browse`, `show`, `pager` (looking at what came of it).

Deliberately absent: torch, tokens, and an executor of our own: Daft runs the pieces, on one machine or on a cluster.
"""
