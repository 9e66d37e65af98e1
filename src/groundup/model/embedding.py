"""The two ends of the model: from token ids to vectors, and from vectors to scores of tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model.norm import build_norm
from groundup.recipe import ModelConfig


class Absent(nn.Module):
    """In place of a part that a model does not have: gives back its first input."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


class Scale(nn.Module):
    """x * factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return x * self.factor


class AddedEmbedding(nn.Embedding):
    """x + table[index]: learned positions (GPT-2, BERT) and token types (BERT)."""

    def forward(self, x: Float[Tensor, "B T D"], index: Int[Tensor, "*B T"]) -> Float[Tensor, "B T D"]:  # type: ignore[override]
        return x + super().forward(index)


class Embedding(nn.Module):
    """From token ids to the vectors that enter the first block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.hidden_size
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.scale = build_scale(config.embedding_scale)
        self.positions = (
            AddedEmbedding(config.context_length, width) if config.positions == "learned" else Absent()
        )
        self.token_types = (
            AddedEmbedding(config.num_token_types, width) if config.num_token_types else Absent()
        )
        self.norm = build_norm(config, width) if config.embedding_norm else Absent()

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"],
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = self.scale(self.tokens(tokens))
        x = self.positions(x, positions)
        x = self.token_types(x, torch.zeros_like(tokens) if token_types is None else token_types)
        return self.norm(x)


class Head(nn.Linear):
    """From the last hidden state to a score of each token."""

    def __init__(self, config: ModelConfig, embedding: Embedding, bias: bool):
        super().__init__(config.hidden_size, config.vocab_size, bias=bias)


class TiedHead(nn.Module):
    """A head whose matrix is the token embedding (Press & Wolf 2017). It holds no matrix of its own."""

    def __init__(self, config: ModelConfig, embedding: Embedding, bias: bool):
        super().__init__()
        self._embedding = (embedding.tokens,)  # in a tuple, so that it is a reference and not a submodule
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if bias else None

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        return self._embedding[0].weight

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        return F.linear(x, self.weight, self.bias)


def build_head(config: ModelConfig, embedding: Embedding, *, bias: bool = False) -> Head | TiedHead:
    """The head of a model, over all of its vocabulary."""
    return (TiedHead if config.tie_embeddings else Head)(config, embedding, bias)


def build_scale(factor: float) -> nn.Module:
    """x * factor, or nothing where the factor is one."""
    return Absent() if factor == 1.0 else Scale(factor)


def check_tokens(tokens: Int[Tensor, "B T"], config: ModelConfig, earlier: int = 0) -> None:
    """Refuse what the model has no weights for, where looking is cheap: ids on the CPU, lengths everywhere.

    Raises UserError naming what was found and what was expected.
    """
    length = earlier + tokens.shape[1]
    if length > config.context_length:
        raise UserError(
            f"a sequence of {length} tokens, expected at most context_length = {config.context_length}",
            hint="shorten the text, or build the model with a longer context",
        )
    if tokens.device.type == "cpu" and not torch.compiler.is_compiling() and tokens.numel():
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= config.vocab_size:
            found, last = low if low < 0 else high, config.vocab_size - 1
            raise UserError(
                f"token id {found}, expected 0 to vocab_size - 1 = {last}",
                hint="the tokens come from another tokenizer than the model was built for",
            )
