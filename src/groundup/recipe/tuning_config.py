"""Knobs that [finetune], [preference] and [reinforcement] share: what is trained, on how much at once, and for how long."""

from typing import Literal, Self

from pydantic import model_validator

from groundup.recipe.base_config import BaseConfig, knob, refuse_unused

BY_SIZE = "derived: {} for a model of a few million parameters to {} for 7 billion"
BY_DATA = "; less for little data, for 16 steps in one pass"

ADAPTER_KNOBS = (
    "lora_rank", "lora_alpha", "lora_targets", "lora_dropout", "lora_rank_stabilized", "lora_dora", "lora_plus_ratio",
    "lora_token_rows",
)  # fmt: skip


class TuningConfig(BaseConfig):
    """Training of a model that exists."""

    method: Literal["lora", "qlora", "full"] = knob(
        "lora",
        "lora: low-rank adapters (Hu et al. 2021); qlora: the same over a base in 4 bits (NF4, Dettmers et al. 2023), a quarter "
        "of its memory; full: all weights",
    )
    lora_rank: int | None = knob(None, "rank of the adapters", unset=BY_SIZE.format("32", "16"), ge=1)
    lora_alpha: float = knob(32.0, "adapters are scaled by lora_alpha / lora_rank", gt=0)
    lora_targets: tuple[str, ...] = knob(
        ("all",),
        "layers with adapters: all (linear layers of the blocks), attention, feed_forward, experts (of a mixture), or ends of "
        "module names as regular expressions, ours or those of the Hugging Face family: q_proj|v_proj, c_attn",
    )
    lora_dropout: float = knob(0.0, "fraction of an adapter's inputs that is dropped in training", ge=0, lt=1)
    lora_rank_stabilized: bool = knob(
        False, "scale adapters by lora_alpha / sqrt(lora_rank), which does not shrink them at high ranks (rsLoRA)"
    )
    lora_dora: bool = knob(False, "train the length of each row of a matrix apart from its direction (DoRA): slower")
    lora_plus_ratio: float = knob(1.0, "learning rate of B over that of A (LoRA+); its authors: 16", gt=0)
    lora_token_rows: bool | None = knob(
        None,
        "adapters also train the embeddings of control tokens; vLLM and llama.cpp read only adapters without them",
        unset="derived: off if [base] has a chat template, whose tokens are trained",
    )
    epochs: float | None = knob(
        None,
        "passes over the conversations or examples",
        unset=BY_SIZE.format("15", "3") + "; 3 for millions of tokens; fewer for embedding",
        gt=0,
    )
    batch_tokens: int | None = knob(
        None, "tokens per optimizer step", unset=BY_SIZE.format("1,024", "16,384") + BY_DATA, ge=1
    )
    sequence_length: int | None = knob(
        None,
        "tokens per row",
        unset="derived: 512, fewer if a batch has fewer, more if a conversation needs them",
        ge=1,
    )
    learning_rate: float | None = knob(
        None,
        "peak learning rate",
        unset=BY_SIZE.format("5e-3", "2e-4")
        + ", at most 1e-3 for a [base] with a chat template; a tenth of it for method = full, 5e-3 to 1e-4 for pairs",
        gt=0,
        le=1,
    )
    optimizer: Literal["adamw", "muon"] | None = knob(
        None,
        "adamw, or muon for the matrices of blocks, at its learning rate in pretraining, and adamw for the rest",
        unset="derived: muon for an encoder_decoder of less than 30 million parameters, else adamw",
    )
    precision: Literal["float32", "bfloat16"] = knob("bfloat16", "precision of matrix products")
    validation_fraction: float = knob(
        0.05, "fraction of conversations or examples for validation, chosen by a hash of their text", ge=0, lt=1
    )
    keep_best_weights: bool | None = knob(
        None,
        "result: the weights that predict the validation answers best, not the last ones; training stops when 3 evaluations "
        "in a row are no better",
        unset="derived: on for text pairs and for more than 5,000 conversations; fewer are to be known by heart",
    )
    prompts: tuple[str, ...] = knob(
        ("Hello", "What is AI?"), "prompts of the samples in log and report; of later tables, too, that name none"
    )

    @property
    def one_device_reason(self) -> str | None:
        """Why a stage with these knobs computes on one device; None if several divide its batches."""
        return None

    @model_validator(mode="after")
    def _check_adapter_knobs(self) -> Self:
        refuse_unused(self, {"method = lora or qlora": (self.method != "full", ADAPTER_KNOBS)})
        if self.keep_best_weights and not self.validation_fraction:
            raise ValueError("keep_best_weights = true has no effect, expected validation_fraction above 0")
        if self.lora_plus_ratio != 1.0 and self.optimizer == "muon":
            raise ValueError(f"lora_plus_ratio = {self.lora_plus_ratio:g} with optimizer = muon, expected adamw")
        return self
