"""The recipe: one table per stage. A stage runs if its table is present."""

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

SKIPPED = "stage skipped"


class Recipe(BaseConfig):
    name: str = knob(meaning="name of the run folder", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = knob(1337, "seed of all random choices", ge=0)
    budget: BudgetConfig = knob(BudgetConfig(), "hardware, time and price")
    data: DataConfig | None = knob(None, "corpus", unset=SKIPPED)
    tokenizer: TokenizerConfig | None = knob(None, "tokenizer", unset=SKIPPED)
    model: PartialModelConfig = knob(PartialModelConfig(), "transformer")  # pyright: ignore[reportInvalidTypeForm]
    train: TrainConfig | None = knob(None, "pretraining", unset=SKIPPED)
    evaluate: EvaluateConfig | None = knob(None, "evaluation of the base model", unset=SKIPPED)
    finetune: FinetuneConfig | None = knob(None, "fine-tuning", unset=SKIPPED)
    quantize: QuantizeConfig | None = knob(None, "quantization", unset=SKIPPED)
    export: ExportConfig | None = knob(None, "export format", unset=SKIPPED)
    report: ReportConfig | None = knob(None, "PDF and HTML report", unset=SKIPPED)
    machine: MachineConfig = knob(MachineConfig(), "devices and limits; never fingerprinted")
