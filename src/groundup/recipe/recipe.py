"""The recipe: one table per stage, which runs if its table is present; and the part of it that one stage may read."""

from typing import Any

from pydantic import model_validator

from groundup.recipe.base_config import NAME, BaseConfig, knob
from groundup.recipe.base_model_config import BaseModelConfig
from groundup.recipe.data_config import DataConfig
from groundup.recipe.evaluate_config import EvaluateConfig
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.recipe.machine_config import MachineConfig
from groundup.recipe.model_config import PartialModelConfig
from groundup.recipe.output_config import ExportConfig, QuantizeConfig, ReportConfig
from groundup.recipe.preference_config import PreferenceConfig
from groundup.recipe.reinforcement_config import ReinforcementConfig
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.recipe.train_config import TrainConfig

SKIPPED = "stage skipped"


class BudgetConfig(BaseConfig):
    """Hardware, time and price of a run, from which the plan derives what the recipe leaves open."""

    hardware: str = knob("cpu-2", "device that the plan is made for: a name from its table, such as cpu-2 or h100")
    devices: int = knob(1, "number of such devices, over all machines", ge=1)
    relative_speed: float = knob(
        1.0, "training speed of this machine relative to that device; groundup init measures it on a CPU", gt=0, le=1000
    )
    hours: float | None = knob(
        None,
        "hours of pretraining; sets the compute from which model size and tokens are derived",
        unset="one of the other budgets, or model.hidden_size and train.tokens, set the compute",
        gt=0,
        le=1_000_000,
    )
    cost: float | None = knob(
        None,
        "money for pretraining, in the currency of the prices; with hours, the smaller budget counts",
        unset="no limit",
        gt=0,
        le=1e12,
    )
    compute: float | None = knob(
        None,
        "floating point operations of pretraining; sets model size and tokens",
        unset="from hours or cost",
        gt=0,
        le=1e30,
    )
    parameters: float | None = knob(
        None,
        "parameters of the model, those of one token in a mixture of experts; sets its shape",
        unset="from hours, cost, compute or train.tokens",
        ge=1e5,
        le=1e13,
    )
    total_parameters: float | None = knob(
        None,
        "parameters with all experts: more than budget.parameters make a mixture of experts",
        unset="no experts",
        ge=1e5,
        le=1e14,
    )
    tokens_per_parameter: float = knob(
        20.0,
        "training tokens per parameter; 20 is compute-optimal (Hoffmann et al. 2022), more gives a smaller model",
        gt=0,
        le=1_000_000,
    )
    price_per_hour: float | None = knob(
        None, "price of one device for one hour, in the currency of the prices", unset="from budget.prices", ge=0
    )
    prices: str | None = knob(
        None,
        "TOML file of prices by device, with currency, date and electricity",
        unset="those of groundup, groundup/plan/cost/prices.toml, which can be copied and changed",
    )


class Recipe(BaseConfig):
    """A recipe: all tables, checked; a table that is None has no stage."""

    name: str = knob(meaning="name of the run folder", pattern=NAME)
    seed: int = knob(1337, "seed of all random choices", ge=0)
    budget: BudgetConfig = knob(BudgetConfig(), "hardware, time and price")
    data: DataConfig | None = knob(None, "corpus", unset=SKIPPED)
    tokenizer: TokenizerConfig | None = knob(None, "tokenizer", unset=SKIPPED)
    base: BaseModelConfig | None = knob(None, "model that exists, instead of a new one", unset="a new model")
    model: PartialModelConfig = knob(PartialModelConfig(), "transformer")  # pyright: ignore[reportInvalidTypeForm]
    train: TrainConfig | None = knob(None, "pretraining", unset=SKIPPED)
    evaluate: EvaluateConfig | None = knob(None, "evaluation of the base model", unset=SKIPPED)
    finetune: FinetuneConfig | None = knob(
        None, "supervised fine-tuning: on conversations, pairs of texts or labels", unset=SKIPPED
    )
    preference: PreferenceConfig | None = knob(
        None, "training on preferences: DPO and its kin, and reward models", unset=SKIPPED
    )
    reinforcement: ReinforcementConfig | None = knob(
        None, "learning from rewards that a program verifies: GRPO and its kin", unset=SKIPPED
    )
    quantize: QuantizeConfig | None = knob(None, "quantization", unset=SKIPPED)
    export: ExportConfig | None = knob(None, "export format", unset=SKIPPED)
    report: ReportConfig | None = knob(None, "PDF and HTML report", unset=SKIPPED)
    machine: MachineConfig = knob(MachineConfig(), "devices and limits; never fingerprinted")

    @model_validator(mode="before")
    @classmethod
    def _share_prompts(cls, values: Any) -> Any:
        """The prompts of a tuning table are those of the later ones, where they name none."""
        if not isinstance(values, dict):
            return values
        values, prompts = dict(values), None
        for table in ("finetune", "preference", "reinforcement"):
            section = values.get(table)
            if not isinstance(section, dict):
                continue
            if prompts is not None and "prompts" not in section and section.get("loss") != "reward":
                values[table] = section = {**section, "prompts": prompts}
            prompts = section.get("prompts", prompts)
        return values

    @model_validator(mode="after")
    def _check_base(self) -> "Recipe":
        if self.base is not None and self.tokenizer is not None:
            raise ValueError("[base] with [tokenizer]: the model has its own tokenizer, expected one of both")
        if self.base is not None and self.model.model_fields_set:
            raise ValueError("[base] with [model]: the model has its own shape, expected one of both")
        return self


class RecipeView:
    """The sections of `recipe` that a stage declares; reading any other raises AttributeError.

    A declared section that the recipe leaves out is None. [machine] is never part of it: stages get a `Machine`.
    """

    name: str
    seed: int
    budget: BudgetConfig
    base: BaseModelConfig | None
    data: DataConfig
    tokenizer: TokenizerConfig
    model: Any
    train: TrainConfig
    evaluate: EvaluateConfig
    finetune: FinetuneConfig
    preference: PreferenceConfig
    reinforcement: ReinforcementConfig
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
