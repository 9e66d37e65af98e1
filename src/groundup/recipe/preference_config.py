"""[preference]: training of a chat model on preferences: pairs of a better and a worse answer, or labelled answers."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.base_config import knob, refuse_unused
from groundup.recipe.finetune_config import FinetuneSourceConfig
from groundup.recipe.tuning_config import BY_DATA, BY_SIZE, TuningConfig


class PreferenceConfig(TuningConfig):
    """[preference]: from which preferences the model learns, and by which loss."""

    loss: Literal["dpo", "ipo", "kto", "orpo", "simpo", "reward"] = knob(
        "dpo",
        "dpo: Rafailov et al. 2023; ipo: Azar et al. 2023; kto: answers that are labelled, without pairs (Ethayarajh et al. "
        "2024); orpo (Hong et al. 2024) and simpo (Meng et al. 2024): pairs, without a reference; reward: not a chat model, "
        "but one that scores answers (Bradley and Terry 1952)",
    )
    sources: tuple[FinetuneSourceConfig, ...] = knob(
        (),
        "JSON, CSV, Parquet or Arrow with prompt, chosen and rejected, texts or lists of messages; for kto also with prompt, "
        "completion and label",
    )
    beta: float | None = knob(
        None,
        "dpo, ipo, kto: pull towards the model before the training, larger is stronger; orpo: weight of the odds ratio beside "
        "the likelihood; simpo: scale of the rewards",
        unset="0.1; simpo: 2",
        gt=0,
    )
    label_smoothing: float = knob(
        0.0, "dpo, simpo: part of the pairs whose answers are taken to be swapped (conservative DPO)", ge=0, lt=0.5
    )
    simpo_gamma: float = knob(1.0, "simpo: margin between the rewards that is asked for", ge=0)
    desirable_weight: float = knob(1.0, "kto: weight of the loss of good answers", gt=0)
    undesirable_weight: float = knob(1.0, "kto: weight of the loss of bad answers", gt=0)
    epochs: float | None = knob(None, "passes over the preferences", unset=BY_SIZE.format("3", "1"), gt=0)
    batch_tokens: int | None = knob(
        None,
        "tokens per optimizer step, of both answers with their prompts",
        unset=BY_SIZE.format("2,048", "32,768") + BY_DATA,
        ge=1,
    )
    sequence_length: int | None = knob(
        None,
        "tokens of a prompt with an answer at most; longer ones are dropped",
        unset="the model's context length",
        ge=1,
    )
    learning_rate: float | None = knob(
        None,
        "peak learning rate",
        unset=BY_SIZE.format("2e-4", "1e-5") + " with lora, 2e-3 to 1e-4 for loss = reward; a tenth for method = full",
        gt=0,
        le=1,
    )
    validation_fraction: float = knob(
        0.05, "fraction of the prompts for validation, at least 50 where there are 250, chosen by a hash", ge=0, lt=1
    )
    keep_best_weights: bool | None = knob(
        None,
        "result: the weights with the lowest loss on the validation preferences, not the last ones; training stops when 3 "
        "evaluations in a row are no better",
        unset="on",
    )

    @model_validator(mode="after")
    def _check_sources(self) -> "PreferenceConfig":
        if not self.sources:
            raise ValueError("sources: expected at least one source of preferences")
        needs = {
            "a loss other than reward": (self.loss != "reward", ("beta", "prompts")),
            "loss = dpo or simpo": (self.loss in ("dpo", "simpo"), ("label_smoothing",)),
            "loss = simpo": (self.loss == "simpo", ("simpo_gamma",)),
            "loss = kto": (self.loss == "kto", ("desirable_weight", "undesirable_weight")),
        }
        refuse_unused(self, needs)
        return self
