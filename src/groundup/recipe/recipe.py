"""The recipe: one table for each stage. A stage runs if its table is there."""

from groundup.recipe.base_config import BaseConfig, knob
from groundup.recipe.budget_config import BudgetConfig
from groundup.recipe.data_config import DataConfig
from groundup.recipe.evaluate_config import EvaluateConfig
from groundup.recipe.export_config import ExportConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.model_config import PartialModelConfig
from groundup.recipe.quantize_config import QuantizeConfig
from groundup.recipe.report_config import ReportConfig
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.recipe.train_config import TrainConfig


class Recipe(BaseConfig):
    name: str = knob(meaning="name of the run folder", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = knob(1337, "every random choice follows from it", ge=0)
    budget: BudgetConfig = knob(BudgetConfig(), "what it may cost")
    data: DataConfig | None = knob(None, "which text")
    tokenizer: TokenizerConfig | None = knob(None, "how text becomes tokens")
    model: PartialModelConfig = knob(PartialModelConfig(), "the transformer")  # pyright: ignore[reportInvalidTypeForm]
    train: TrainConfig | None = knob(None, "how it learns")
    evaluate: EvaluateConfig | None = knob(None, "what is measured")
    finetune: FinetuneConfig | None = knob(None, "how it learns to converse")
    quantize: QuantizeConfig | None = knob(None, "how many bits a weight keeps")
    export: ExportConfig | None = knob(None, "in which layout it leaves the house")
    report: ReportConfig | None = knob(None, "the PDF and the page")
    machine: MachineConfig = knob(MachineConfig(), "where it runs; never part of what the run is")
