"""14. Telling: what was planned and what happened, as a document one can hand on.

Reading order: `collect` (a run folder in one dictionary), `wording` (numbers as one says them), `blocks` (what a
document is made of), `plots` (drawings), `sections` (the words, one file for each section), `story` (all of them),
`typeset` and `page` (a story as PDF and as HTML), `blueprint` (the plan alone, before anything is built), `write`
(the files), `summary` (the closing lines in the terminal), `stage`. Beside it `watch`: a training while it goes on.

Deliberately absent: torch and every chapter but the plan. A report reads manifests; no stage pushes to it.
"""

from groundup.report.report_files import write_report

__all__ = ["write_report"]
