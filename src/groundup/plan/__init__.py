"""2. What it will cost: everything that follows from the recipe, computed before anything is spent.

Reading order: `scaling` (how many parameters and tokens a budget buys), `shape` (a width and a depth for a number of
parameters), `count` (parameters and arithmetic of a shape), `memory` (bytes on each device), `hardware` (what devices
do and hold), `growth` (batches that begin small), `layout` (which sharings of the work there can be), `derive` (a recipe
with nothing left open, and the plan's facts), `law` and `expected` (what small models say of a larger one), `advise` (a
recipe from a few answers), `job_file` (with which a cluster starts it).

Deliberately absent: torch, and measuring. A plan is a pure function of the recipe, the same on every machine.
"""

from groundup.plan.derive import Plan, derive

__all__ = ["Plan", "derive"]
