"""[train]: how the model learns from tokens."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

Packing = Literal["plain", "best-fit"]
Precision = Literal["float32", "bfloat16", "bfloat16-pure", "float8"]


EngineName = Literal["native", "deepspeed", "megatron"]


class TrainConfig(BaseConfig):
    engine: EngineName = knob(
        "native",
        "what computes the steps: PyTorch's own parts, DeepSpeed's ZeRO, or Megatron-Core's model and optimizer; "
        "the losses are the same",
    )
    tokens: int | None = knob(
        None, "tokens to train on; derived: budget.tokens_per_parameter for each parameter", ge=1
    )
    steps: int | None = knob(None, "optimizer steps; derived: tokens / batch_tokens", ge=1)
    batch_tokens: int | None = knob(
        None, "tokens in one optimizer step, over all devices; derived from the model's size", ge=1
    )
    sequence_length: int | None = knob(
        None, "tokens in one training sequence; derived: model.context_length", ge=8
    )
    token_shards: str | None = knob(
        None, "folder or address of train.* and validation.* shards to learn from; none: those of the run"
    )
    packing: Packing = knob(
        "plain",
        "plain: the text in a row, cut every sequence_length tokens; best-fit: whole documents side by side",
    )
    document_mask: bool = knob(False, "attention stays inside a document; costs speed where it needs a mask")
    mix: dict[str, float] | None = knob(
        None,
        "share of the sequences from each source, whatever there is of it; none: the text as it was encoded",
    )
    initial_batch_tokens: int | None = knob(
        None, "tokens in the first steps' batch, which doubles up to batch_tokens; none: it starts full", ge=1
    )
    initial_sequence_length: int | None = knob(
        None,
        "tokens in the first steps' sequences, which double up to sequence_length; none: they start full",
        ge=2,
    )
    batch_warmup_steps: int | None = knob(
        None, "step from which batch and sequences have their full size; derived: a tenth of the steps", ge=1
    )
    optimizer: Literal["adamw", "muon"] = knob(
        "adamw", "adamw, or muon for the blocks' matrices with adamw for the rest"
    )
    learning_rate: float | None = knob(
        None, "peak learning rate of adamw; derived from the model's width", gt=0
    )
    muon_learning_rate: float = knob(0.02, "peak learning rate of muon's matrices", gt=0)
    weight_decay: float = knob(0.1, "decoupled decay, on matrices only", ge=0)
    beta1: float = knob(0.9, "adamw's decay of the mean gradient", ge=0, lt=1)
    beta2: float = knob(0.95, "adamw's decay of the mean squared gradient", ge=0, lt=1)
    max_grad_norm: float | None = knob(1.0, "largest norm of the gradient; none: no clipping", gt=0)
    lr_schedule: Literal["cosine", "linear", "constant", "warmup-stable-decay"] = knob(
        "cosine", "course of the learning rate after warm-up"
    )
    warmup_steps: int | None = knob(None, "steps of linear warm-up; derived: 2% of the steps", ge=0)
    decay_fraction: float = knob(0.4, "share of the steps in which warmup-stable-decay decays", gt=0, le=1)
    min_lr_ratio: float = knob(0.1, "learning rate at the last step, as a share of the peak", ge=0, le=1)
    precision: Precision = knob(
        "bfloat16",
        "of the matrix products; weights and optimizer stay float32. bfloat16-pure keeps the weights in bfloat16 too, "
        "float8 needs an accelerator that has it",
    )
    stochastic_rounding: bool = knob(
        True, "with bfloat16-pure: round weights up or down by chance, so that small updates are not lost"
    )
    optimizer_state_dtype: Literal["float32", "float8"] = knob(
        "float32", "of adamw's two moments: 8 bytes a weight, or 2 with one scale for 256"
    )
    weight_averaging: Literal["none", "ema", "tail"] = knob(
        "none",
        "the model is the last weights, their exponential moving average, or the mean of the last steps",
    )
    ema_decay: float = knob(0.999, "what the moving average keeps of itself at each step", ge=0, lt=1)
    tail_fraction: float = knob(0.1, "share of the steps that the tail's mean is over", gt=0, le=1)
    mask_rate: float = knob(
        0.15, "encoder, encoder_decoder: share of the tokens that are hidden, to be predicted", gt=0, lt=1
    )
    mean_span_length: float = knob(3.0, "encoder_decoder: mean length of a hidden span, in tokens", ge=1)
    z_loss: float = knob(
        0.0, "weight of the squared log-partition, which keeps logits from drifting (PaLM, section 5)", ge=0
    )
    evaluate_every: int | None = knob(
        None, "steps between looks at held-out text; derived: a twentieth of the steps, at least 25", ge=1
    )
    early_stopping_patience: int | None = knob(
        None, "looks without a better one after which training ends early; none: it takes all steps", ge=1
    )
    on_spike: Literal["ignore", "skip", "rollback"] = knob(
        "ignore",
        "a loss far above those before it, or not finite: train on (and stop where it is not finite), leave the batch "
        "out, or go back to the newest checkpoint and leave out the batches since",
    )
    spike_deviations: float = knob(
        6.0, "how far above the mean of the last 64 losses a spike is, in standard deviations", gt=0
    )
    sample_prompts: tuple[str, ...] = knob(
        (), "beginnings that the model continues at each look, to be read in eval.jsonl"
    )
