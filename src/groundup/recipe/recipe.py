"""The recipe: one table for each stage. A stage runs if its table is there."""

from groundup.recipe.budget import BudgetSection
from groundup.recipe.data import DataSection
from groundup.recipe.evaluate import EvaluateSection
from groundup.recipe.export import ExportSection
from groundup.recipe.finetune import FinetuneSection
from groundup.recipe.machine import MachineSection
from groundup.recipe.model import ModelSection
from groundup.recipe.quantize import QuantizeSection
from groundup.recipe.report import ReportSection
from groundup.recipe.section import Section, knob
from groundup.recipe.tokenizer import TokenizerSection
from groundup.recipe.train import TrainSection


class Recipe(Section):
    name: str = knob(meaning="name of the run folder", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = knob(1337, "every random choice follows from it", ge=0)
    budget: BudgetSection = knob(BudgetSection(), "what it may cost")
    data: DataSection | None = knob(None, "which text")
    tokenizer: TokenizerSection | None = knob(None, "how text becomes tokens")
    model: ModelSection = knob(ModelSection(), "the transformer")  # pyright: ignore[reportInvalidTypeForm]
    train: TrainSection | None = knob(None, "how it learns")
    evaluate: EvaluateSection | None = knob(None, "what is measured")
    finetune: FinetuneSection | None = knob(None, "how it learns to converse")
    quantize: QuantizeSection | None = knob(None, "how many bits a weight keeps")
    export: ExportSection | None = knob(None, "in which layout it leaves the house")
    report: ReportSection | None = knob(None, "the PDF and the page")
    machine: MachineSection = knob(MachineSection(), "where it runs; never part of what the run is")
