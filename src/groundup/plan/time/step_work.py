"""Work of a training step by kind of operation: what a roofline, or a fit to measured steps, turns into seconds.

Forward and backward pass of the whole model; recomputation and parallel axes are applied in step_time.py. After Williams et
al. 2009, Roofline: products are limited by arithmetic, the rest by memory, and small operators by their calls.
"""

from dataclasses import dataclass, fields, replace

from groundup.plan.shape.parameter_count import SPANS, count_parameters, training_flops_per_token
from groundup.plan.shape.weight_shapes import num_encoder_layers
from groundup.recipe import ModelConfig

CROSS_ATTENTION_BLOCKS = 2
"""Calls of operators of a block with cross-attention, of one with self-attention alone (measured at 1.7 million parameters)."""


@dataclass(frozen=True)
class StepWork:
    """Counts of one step.

    Attributes:
        product_flops: operations of products with weights, the head included.
        attention_flops: operations of queries with keys and of probabilities with values, halved if causal.
        stream_values: values of the residual stream and of the feed-forward, over blocks and tokens.
        score_values: attention probabilities, over blocks, heads and tokens; fused kernels on GPUs store none.
        logit_values: values of the logits.
        block_calls: blocks times micro-batches.
        blocks: blocks, once a step: the optimizer's work on many small matrices.
        weights: parameters that the optimizer updates.
    """

    product_flops: float = 0.0
    attention_flops: float = 0.0
    stream_values: float = 0.0
    score_values: float = 0.0
    logit_values: float = 0.0
    block_calls: float = 0.0
    blocks: float = 0.0
    weights: float = 0.0

    def seconds(self, rates: "WorkRates") -> float:
        """Seconds at `rates`."""
        return sum(getattr(self, name) * getattr(rates, name) for name in WORK_NAMES)


@dataclass(frozen=True)
class WorkRates:
    """Seconds for each unit of the fields of StepWork."""

    product_flops: float = 0.0
    attention_flops: float = 0.0
    stream_values: float = 0.0
    score_values: float = 0.0
    logit_values: float = 0.0
    block_calls: float = 0.0
    blocks: float = 0.0
    weights: float = 0.0

    def faster(self, factor: float) -> "WorkRates":
        """The rates of a machine that is `factor` times as fast, but for calls, which more cores do not speed up."""
        kept = {"block_calls": self.block_calls, "blocks": self.blocks}
        return replace(self, **{name: getattr(self, name) / factor for name in WORK_NAMES if name not in kept})


WORK_NAMES = tuple(each.name for each in fields(StepWork))


def step_work(
    config: ModelConfig,
    sequence_length: int,
    tokens: float,
    shares: tuple[float, float] = SPANS,
    micro_batches: float = 1.0,
) -> StepWork:
    """Work of a step on `tokens`; `shares`: of the tokens, in the parts of an encoder-decoder (parameter_count.py)."""
    token_flops = training_flops_per_token(config, sequence_length, shares)
    attention = tokens * (token_flops - training_flops_per_token(config, 0, shares))
    layers, call_blocks = float(config.num_layers), float(config.num_layers)
    if encoder := num_encoder_layers(config):
        layers = shares[0] * encoder + shares[1] * config.num_layers
        call_blocks = encoder + CROSS_ATTENTION_BLOCKS * config.num_layers
    feed_forward = config.intermediate_size
    if (moe := config.moe) is not None:
        feed_forward = moe.intermediate_size * (moe.experts_per_token + moe.num_shared_experts)
    logits = shares[1] if encoder else 1.0
    return StepWork(
        product_flops=tokens * token_flops - attention,
        attention_flops=attention,
        stream_values=layers * tokens * (config.hidden_size + feed_forward),
        score_values=0.0 if config.state_space else layers * tokens * config.num_heads * sequence_length,
        logit_values=logits * tokens * config.vocab_size,
        block_calls=call_blocks * micro_batches,
        blocks=call_blocks,
        weights=count_parameters(config).total,
    )
