"""1. What we want: every knob of a language model, in one file that a person can read.

Reading order: `section` (what every table has in common), then one file per table of the recipe, in the order of the
pipeline: `data`, `tokenizer`, `model`, `train`, `evaluate`, `finetune`, `quantize`, `export`, `report`; `budget` (what
it may cost) and `machine` (where it runs); `recipe` (all of them), `sections` (those that a stage may read), `load`
(TOML and overrides), `explain` (what a knob means, and the JSON schema).

Deliberately absent: torch, and anything derived. What follows from the knobs is computed in `plan`.
"""

from groundup.recipe.load import build_model_config, load_recipe, parse_recipe
from groundup.recipe.model_config import ModelConfig
from groundup.recipe.recipe import Recipe

__all__ = ["ModelConfig", "Recipe", "build_model_config", "load_recipe", "parse_recipe"]
