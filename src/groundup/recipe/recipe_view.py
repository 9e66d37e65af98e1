"""The part of a recipe that one pipeline stage may read."""

from typing import Any

from groundup.recipe.budget_config import BudgetConfig
from groundup.recipe.data_config import DataConfig
from groundup.recipe.evaluate_config import EvaluateConfig
from groundup.recipe.export_config import ExportConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.recipe.quantize_config import QuantizeConfig
from groundup.recipe.recipe import Recipe
from groundup.recipe.report_config import ReportConfig
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.recipe.train_config import TrainConfig


class RecipeView:
    """The sections of `recipe` that a stage declares; reading any other raises AttributeError.

    A declared section that the recipe leaves out is None. [machine] is never part of it: stages get a `Machine`.
    """

    name: str
    seed: int
    budget: BudgetConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    model: Any
    train: TrainConfig
    evaluate: EvaluateConfig
    finetune: FinetuneConfig
    quantize: QuantizeConfig
    export: ExportConfig
    report: ReportConfig

    def __init__(self, recipe: Recipe, sections: tuple[str, ...]):
        self._sections = sections
        for section in sections:
            setattr(self, section, getattr(recipe, section))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"this stage declares {', '.join(self._sections)}; add {name!r} to its sections to read it"
        )
