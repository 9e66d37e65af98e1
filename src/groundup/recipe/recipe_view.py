"""What one stage may read of a recipe."""

from typing import Any

from groundup.recipe.recipe import Recipe


class RecipeView:
    """What a stage sees of the recipe: the tables it declared, and an error for any other."""

    def __init__(self, recipe: Recipe, names: tuple[str, ...]):
        self._names = names
        for name in names:
            setattr(self, name, getattr(recipe, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this stage declares {', '.join(self._names)}; add {name!r} to its `reads` to use it"
        )
