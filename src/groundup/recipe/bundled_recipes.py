"""Recipes that come with the package: the folder `groundup/recipes`, which is `recipes/` of the repository."""

from pathlib import Path

from groundup.artifacts.errors import UserError

BUNDLED_RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))}


def bundled_recipe(name: str) -> str:
    """The TOML text of a recipe by its name. Raises UserError for an unknown name."""
    if name not in BUNDLED_RECIPES:
        raise UserError(f"{name}: no such recipe", hint=f"one of {', '.join(BUNDLED_RECIPES)}")
    return BUNDLED_RECIPES[name].read_text(encoding="utf-8")
