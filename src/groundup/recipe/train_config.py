"""[train]: pretraining."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob
from groundup.recipe.evaluate_config import HarnessConfig

Packing = Literal["concat", "best-fit"]
Precision = Literal["float32", "bfloat16", "bfloat16-pure", "float8"]
EngineName = Literal["native", "deepspeed", "megatron"]


class TrainConfig(BaseConfig):
    """[train]: tokens, batches, optimizer, schedule and precision of pretraining."""

    engine: EngineName = knob(
        "native", "training engine: PyTorch, DeepSpeed ZeRO, or the model and optimizer of Megatron-Core; same losses"
    )
    tokens: int | None = knob(
        None,
        "tokens to train on",
        unset="derived: from budget.hours, or budget.tokens_per_parameter x parameters",
        ge=1,
    )
    steps: int | None = knob(None, "optimizer steps", unset="derived: tokens / batch_tokens", ge=1)
    batch_tokens: int | None = knob(
        None,
        "tokens per optimizer step, over all devices",
        unset="derived: 0.292 C^0.3271 (DeepSeek LLM 2024) for C operations of training, at most 1/200 of the tokens, to a "
        "power of two of sequences; with tokens and steps, tokens / steps",
        ge=1,
    )
    sequence_length: int | None = knob(
        None, "tokens per training sequence", unset="derived: model.context_length", ge=8
    )
    token_shards: str | None = knob(
        None, "folder or URL of train.* and validation.* token shards", unset="those of the run"
    )
    packing: Packing = knob(
        "concat", "concat: documents concatenated, cut every sequence_length tokens; best-fit: whole documents, padded"
    )
    document_mask: bool = knob(False, "attention only within a document; slower where it needs a mask")
    mix: dict[str, float] | None = knob(
        None,
        "fraction of the sequences from each source, independent of its size",
        unset="proportional to the tokens of each source",
    )
    initial_batch_tokens: int | None = knob(
        None, "batch_tokens at step 0, doubled up to batch_tokens", unset="no batch warmup", ge=1
    )
    initial_sequence_length: int | None = knob(
        None, "sequence_length at step 0, doubled up to sequence_length", unset="no sequence warmup", ge=2
    )
    batch_warmup_steps: int | None = knob(
        None, "steps until batch and sequences reach full size", unset="derived: 10% of the steps", ge=1
    )
    optimizer: Literal["adamw", "muon"] = knob(
        "adamw", "muon: Muon for matrices in blocks, AdamW for all other parameters"
    )
    learning_rate: float | None = knob(
        None,
        "peak learning rate of AdamW",
        unset="derived: 0.3118 C^-0.125 (DeepSeek LLM 2024) for C operations of training, those of attention and head "
        "included, to two digits",
        gt=0,
        le=1,
    )
    muon_learning_rate: float = knob(0.02, "peak learning rate of Muon", gt=0, le=1)
    weight_decay: float = knob(0.1, "decoupled weight decay, on matrices only", ge=0)
    beta1: float = knob(0.9, "AdamW: decay of the first moment", ge=0, lt=1)
    beta2: float = knob(0.95, "AdamW: decay of the second moment", ge=0, lt=1)
    max_grad_norm: float | None = knob(1.0, "gradient clipping: maximum norm; none: off", unset="off", gt=0)
    lr_schedule: Literal["cosine", "linear", "constant", "warmup-stable-decay"] = knob(
        "cosine", "learning rate schedule after warmup"
    )
    warmup_steps: int | None = knob(
        None, "steps of linear learning rate warmup", unset="derived: 2% of the steps", ge=0
    )
    decay_fraction: float = knob(0.4, "warmup-stable-decay: fraction of the steps that decay", gt=0, le=1)
    min_lr_ratio: float = knob(0.1, "learning rate of the last step / peak learning rate", ge=0, le=1)
    precision: Precision = knob(
        "bfloat16",
        "precision of matrix products; weights and optimizer state are float32, except bfloat16-pure: bfloat16 weights. "
        "float8 needs an accelerator that supports it",
    )
    stochastic_rounding: bool = knob(
        True, "bfloat16-pure: round weights stochastically, so that small updates are not lost"
    )
    optimizer_state_dtype: Literal["float32", "float8"] = knob(
        "float32", "AdamW moments: 8 bytes per weight, or 2 with one scale per 256 values"
    )
    weight_averaging: Literal["none", "ema", "tail"] = knob(
        "none", "final weights: the last ones, their exponential moving average, or the mean over the last steps"
    )
    ema_decay: float = knob(0.999, "ema: decay per step", ge=0, lt=1)
    tail_fraction: float = knob(0.1, "tail: fraction of the steps to average over", gt=0, le=1)
    mask_rate: float = knob(0.15, "encoder, encoder_decoder: fraction of tokens to mask", gt=0, lt=1)
    mean_span_length: float = knob(3.0, "encoder_decoder: mean length of a masked span, in tokens", ge=1)
    z_loss: float = knob(
        0.0, "weight of the z-loss, the squared log-partition, against drifting logits (PaLM, section 5)", ge=0
    )
    evaluate_every: int | None = knob(
        None, "evaluate on validation text every N steps", unset="derived: a twentieth of the steps, at least 25", ge=1
    )
    keep_best_weights: bool | None = knob(
        None,
        "result: the weights of the best scheduled evaluation, not the last ones",
        unset="derived: on where the text is read more than once",
    )
    early_stopping_patience: int | None = knob(
        None,
        "stop after this many evaluations without a better loss",
        unset="derived: 5 with keep_best_weights, else off",
        ge=1,
    )
    on_spike: Literal["ignore", "skip", "rollback"] = knob(
        "ignore",
        "on a loss spike or a loss that is not finite: ignore (stop if not finite), skip the batch, or go back to the last "
        "checkpoint and skip the batches since",
    )
    spike_deviations: float = knob(
        6.0, "loss spike threshold: standard deviations above the mean of the last 64 losses", gt=0
    )
    sample_prompts: tuple[str, ...] = knob((), "prompts to continue at each evaluation; written to eval.jsonl")
    harness: HarnessConfig | None = knob(
        None, "tasks of lm-evaluation-harness at each evaluation, such as 100 questions of each", unset="none"
    )
