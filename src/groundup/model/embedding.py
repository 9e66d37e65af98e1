"""Token, position and token-type embeddings, and the validation of token ids and labels."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model.loss import IGNORE_INDEX
from groundup.model.norm import build_norm
from groundup.model.token_rows import embed_tokens
from groundup.recipe import ModelConfig


class PassThrough(nn.Module):
    """Returns its first input: stands for a module that a model does not have."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


class Scale(nn.Module):
    """x * factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return x * self.factor


class AdditiveEmbedding(nn.Embedding):
    """x + table[index]: learned positions (GPT-2, BERT) and token types (BERT)."""

    def forward(self, x: Float[Tensor, "B T D"], index: Int[Tensor, "*B T"]) -> Float[Tensor, "B T D"]:  # type: ignore[override]
        return x + super().forward(index)


class Embedding(nn.Module):
    """The embedding of token ids: the input of the first block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.scale = build_scale(config.embedding_scale)
        shared = config.architecture == "encoder_decoder"  # positions and norm belong to its stacks
        self.positions = PassThrough() if shared else build_positions(config, width)
        self.token_types = AdditiveEmbedding(config.num_token_types, width) if config.num_token_types else PassThrough()
        self.norm = build_norm(config, width) if config.embedding_norm and not shared else PassThrough()
        # ELECTRA (Clark et al. 2020), ALBERT (Lan et al. 2020, section 3.1): a narrow table for a wide model
        self.projection = nn.Linear(width, config.hidden_size) if config.embedding_size else PassThrough()

    def forward(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"], token_types: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        x = self.scale(embed_tokens(self.tokens, tokens))
        x = self.positions(x, positions)
        x = self.token_types(x, torch.zeros_like(tokens) if token_types is None else token_types)
        return self.projection(self.norm(x))


class StackEmbedding(nn.Module):
    """Positions and norm of the embedding of one stack of an encoder-decoder, whose tokens' table serves both stacks."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.positions = build_positions(config, config.hidden_size)
        self.norm = build_norm(config, config.hidden_size) if config.embedding_norm else PassThrough()

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "*B T"]) -> Float[Tensor, "B T D"]:
        return self.norm(self.positions(x, positions))


class SinusoidalEmbedding(nn.Module):
    """x + [sin(p f) cos(p f)], frequencies f from 1 to 1 / 10,000 (Vaswani et al. 2017, section 3.5): no weights.

    There the last frequency is one step above 1 / 10,000; fairseq ends with it, and counts positions from 2 (M2M-100).
    """

    def __init__(self, width: int, fairseq: bool):
        super().__init__()
        self.frequencies = width // 2
        self.first, self.steps = (2, self.frequencies - 1) if fairseq else (0, self.frequencies)

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "*B T"]) -> Float[Tensor, "B T D"]:
        exponents = torch.arange(self.frequencies, device=x.device, dtype=torch.float32) / max(self.steps, 1)
        angles = (positions + self.first)[..., None] * torch.exp(-math.log(10_000) * exponents)
        return x + torch.cat((angles.sin(), angles.cos()), dim=-1).to(x.dtype)


def build_positions(config: ModelConfig, width: int) -> nn.Module:
    """What adds positions to embeddings; nothing where attention has them."""
    if config.position_embedding == "learned":
        return AdditiveEmbedding(config.context_length, width)
    if config.position_embedding in ("sinusoidal", "sinusoidal_fairseq"):
        return SinusoidalEmbedding(width, fairseq=config.position_embedding == "sinusoidal_fairseq")
    return PassThrough()


def build_scale(factor: float) -> nn.Module:
    """x * factor, or x for a factor of one."""
    return PassThrough() if factor == 1.0 else Scale(factor)


def check_architecture(config: ModelConfig, expected: str) -> None:
    """Raise UserError for the configuration of another kind of model."""
    if config.architecture != expected:
        raise UserError(
            f"architecture = {config.architecture!r}, expected {expected!r}", hint="build_model(config) picks the class"
        )


def check_tokens(tokens: Int[Tensor, "B T"], config: ModelConfig, cache_length: int | None = None) -> None:
    """Raises UserError for sequences beyond the context length and, on a CPU, for ids outside the vocabulary.

    cache_length: tokens in the key/value cache; None: no cache.
    """
    if tokens.ndim != 2:
        raise UserError(
            f"tokens of shape {tuple(tokens.shape)}, expected (batch, length)",
            hint="tokens[None] is a batch of one sequence",
        )
    length = (cache_length or 0) + tokens.shape[1]
    limit = config.cached_context_length
    if cache_length is not None and limit < length <= config.context_length:
        raise UserError(
            f"a sequence of {length} tokens with a key/value cache, expected at most original_context_length = {limit}: "
            "beyond it, dynamic RoPE changes the keys of all tokens with each token",
            hint="shorten the sequence, or call the model without a cache",
        )
    if length > config.context_length:
        raise UserError(
            f"a sequence of {length} tokens, expected at most context_length = {config.context_length}",
            hint="shorten the sequence, or build the model with a larger context_length",
        )
    _check_ids("token", tokens, config.vocab_size)


def check_labels(labels: Int[Tensor, "B T"], tokens: Int[Tensor, "B T"], config: ModelConfig) -> None:
    """Raises UserError for labels of another shape than `tokens` or, on a CPU, outside the vocabulary."""
    if labels.shape != tokens.shape:
        raise UserError(
            f"labels of shape {tuple(labels.shape)}, expected that of the tokens, {tuple(tokens.shape)}",
            hint="pass unshifted labels: the model shifts them",
        )
    _check_ids("label", labels.masked_fill(labels == IGNORE_INDEX, 0), config.vocab_size)


def _check_ids(name: str, ids: Int[Tensor, "B T"], vocab_size: int) -> None:
    on_cpu = type(ids) is Tensor and ids.device.type == "cpu"  # no fake tensor
    if on_cpu and not torch.compiler.is_compiling() and ids.numel():
        low, high = (int(end) for end in ids.aminmax())
        if low < 0 or high >= vocab_size:
            found = low if low < 0 else high
            raise UserError(
                f"{name} id {found}, expected 0 to vocab_size - 1 = {vocab_size - 1}",
                hint="the ids come from a tokenizer with a larger vocabulary than the model's",
            )
