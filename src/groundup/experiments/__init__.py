"""Experiments: many runs of one recipe, with other knob values or other model sizes.

    variants.py   build many recipes; stages that they have in common once
    sweep.py      a grid of knob values, compared in a table
    ladder.py     a ladder of model sizes, and the loss that a scaling law predicts from it

Deliberately absent: a search over knobs, and variants in parallel: one machine trains one model at a time best.
"""

from groundup.experiments.ladder import fit_and_predict, ladder_recipes
from groundup.experiments.sweep import expand_grid
from groundup.experiments.variants import VariantResult, build_variants

__all__ = ["VariantResult", "build_variants", "expand_grid", "fit_and_predict", "ladder_recipes"]
