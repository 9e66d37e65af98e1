"""Checks of a recipe before it starts.

Reading order:
    feasibility.py      contradictions of a recipe, and the nearest possible plan
    engine_support.py   checks of a recipe against its training engine
    stage_support.py    checks of a recipe against its stages
"""
