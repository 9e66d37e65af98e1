"""1. Recipe: all knobs of a run in one TOML file, checked by one schema.

Reading order:
    base_config.py        base class of the tables; declaration of a knob
    data_config.py        [data]
    tokenizer_config.py   [tokenizer]
    base_model_config.py  [base]
    mixer_config.py       latent attention and state-space layers of [model]
    model_checks.py       what [model] refuses
    model_config.py       [model], and ModelConfig, a complete model
    evaluate_config.py    [evaluate]
    train_config.py       [train]
    tuning_config.py      what [finetune] and the stages after it share
    finetune_config.py    [finetune]
    preference_config.py  [preference]
    reinforcement_config.py  [reinforcement]
    output_config.py      [quantize], [export], [report]
    layout_config.py      [machine.layout]: parallel layout
    machine_config.py     [machine]: devices and limits
    recipe.py             the recipe: [budget] and all tables; the part that one stage may read
    bundled_recipes.py    recipes that come with the package
    allowed_inputs.py     what a recipe of other people may read
    field_words.py        words of the field, and the knobs that they stand for
    recipe_file.py        recipe from a TOML file and overrides
    explain.py            meaning, type and default of knobs; JSON schema

Deliberately absent: torch, and derived values, which are computed in `plan`.
"""

from groundup.recipe.explain import explain_knob, knob_table
from groundup.recipe.model_config import ModelConfig
from groundup.recipe.recipe import Recipe, RecipeView
from groundup.recipe.recipe_file import build_model_config, load_recipe, parse_recipe

__all__ = [
    "ModelConfig", "Recipe", "RecipeView", "build_model_config", "explain_knob", "knob_table", "load_recipe", "parse_recipe",
]  # fmt: skip
