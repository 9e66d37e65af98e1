"""Comparison of models on the same items: paired differences, and what could have been seen.

    item_scores.py       the score of each item of a text or task, as it is stored
    stored_scores.py     those that the stage 05-scores of a run measured
    measured_scores.py   those of any model, measured now
    score_comparison.py  entries of one or several seeds side by side
    rating_pairs.py      answers of two models side by side, for blind rating

Absent: measuring itself, which likelihood.py and tasks.py do.
"""

from groundup.evaluate.comparison.item_scores import ItemScore
from groundup.evaluate.comparison.score_comparison import MeasureComparison, compare_entries

__all__ = ["ItemScore", "MeasureComparison", "compare_entries"]
