"""Runs beside runs: the same recipe with other knobs, or in other sizes.

Reading order: `variants` (many recipes, each stage made once), `sweep` (a grid of knobs), `ladder` (a row of sizes, and
the law through their losses; the law itself is plan/scaling_law.py).

Deliberately absent: a search that chooses knobs by itself, and running variants at the same time: one machine trains one
model at a time best.
"""
