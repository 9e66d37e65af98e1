"""Language-model heads: logits from hidden states, the loss of predicting labels, and shifted labels."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model.attention import softcap
from groundup.model.embedding import Embedding, build_scale
from groundup.model.feed_forward import ACTIVATIONS
from groundup.model.loss import IGNORE_INDEX, linear_cross_entropy
from groundup.model.norm import build_norm
from groundup.model.token_rows import PackedTable, split_token_rows
from groundup.recipe import ModelConfig


class ModelOutput(NamedTuple):
    """Logits, or the loss if labels were given: logits would take V numbers per token."""

    logits: Float[Tensor, "B T V"] | None
    loss: Float[Tensor, ""] | None


class Head(nn.Module):
    """logits = softcap(W (scale x) + bias). The subclasses differ in the origin of W."""

    weight: Tensor
    compiled = False
    """Whether the loss is compiled; see loss.py."""

    def __init__(self, config: ModelConfig, bias: bool):
        super().__init__()
        self.logit_softcap = config.logit_softcap
        self.scale = build_scale(config.logit_scale / config.width_multiplier)
        self.softcap = nn.Identity() if self.logit_softcap is None else partial(softcap, limit=self.logit_softcap)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if bias else None

    def forward(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        table = self.table
        if isinstance(table, PackedTable):
            logits = table.matrix(self.scale(hidden))
            return self.softcap(logits if self.bias is None else logits + self.bias)
        return self.softcap(F.linear(self.scale(hidden), self.weight, self.bias))

    def loss(
        self, hidden: Float[Tensor, "... D"], labels: Int[Tensor, "..."], z_loss: float = 0.0
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of `labels`, without materializing all logits."""
        hidden = self.scale(hidden).flatten(0, -2)
        weight, rows = split_token_rows(self.table)
        return linear_cross_entropy(
            hidden, weight, labels.flatten(), bias=self.bias, softcap=self.logit_softcap, z_loss=z_loss,
            compiled=self.compiled, rows=rows,
        )  # fmt: skip

    @property
    def table(self) -> nn.Module:
        """The module whose weight is W."""
        return self


class UntiedHead(Head):
    """A head with its own matrix.

    Attributes:
        packed: the matrix in fewer bits, in place of `weight`.
    """

    def __init__(self, config: ModelConfig, bias: bool):
        super().__init__(config, bias)
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.embedding_size or config.hidden_size))
        self.packed: PackedTable | None = None

    @property
    def table(self) -> nn.Module:
        return self.packed or self

    def pack(self, table: PackedTable) -> None:
        """Replace the matrix, for inference."""
        del self.weight
        self.packed = table


class TiedHead(Head):
    """A head whose matrix is the token embedding (Press & Wolf 2017)."""

    def __init__(self, config: ModelConfig, bias: bool, embedding: Embedding):
        super().__init__(config, bias)
        self._embedding = (embedding.tokens,)  # in a tuple: no submodule

    @property
    def table(self) -> nn.Module:
        return self._embedding[0]

    def pack(self, table: nn.Module) -> None:
        """Use another matrix, which has replaced that of the embedding, for inference."""
        self._embedding = (table,)

    @property
    def weight(self) -> Float[Tensor, "V D"]:  # type: ignore[override]
        return self._embedding[0].weight  # type: ignore[return-value]


class MaskedLMHead(nn.Module):
    """BERT's head (Devlin et al. 2018): a dense layer and a norm before the projection."""

    def __init__(self, config: ModelConfig, embedding: Embedding):
        super().__init__()
        width = config.embedding_size or config.hidden_size
        bias = config.feed_forward_bias if config.masked_head_bias is None else config.masked_head_bias
        self.dense = nn.Linear(config.hidden_size, width, bias=bias)
        self.activation = ACTIVATIONS[config.masked_head_activation]
        self.norm = build_norm(config, width)
        self.head = build_head(config, embedding, bias=True)

    def transform(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... O"]:
        return self.norm(self.activation(self.dense(hidden)))

    def forward(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        return self.head(self.transform(hidden))

    def loss(
        self, hidden: Float[Tensor, "... D"], labels: Int[Tensor, "..."], z_loss: float = 0.0
    ) -> Float[Tensor, ""]:
        predicted = labels != IGNORE_INDEX
        return self.head.loss(self.transform(hidden[predicted]), labels[predicted], z_loss)


class NoHead(nn.Module):
    """The head of an encoder without masked_lm_head: raises UserError."""

    def forward(self, hidden: Tensor) -> Tensor:
        raise UserError(
            "this encoder has no head to predict tokens (masked_lm_head = false)",
            hint="model.embed(tokens) returns one vector per text",
        )

    def loss(self, hidden: Tensor, labels: Tensor, z_loss: float = 0.0) -> Tensor:
        return self(hidden)


def unpack_tables(model: nn.Module) -> None:
    """Replace packed token matrices by plain ones with the same values, in place."""
    modules = list(model.modules())
    for embedding in (module for module in modules if isinstance(module, Embedding)):
        packed = embedding.tokens
        if isinstance(packed, PackedTable):
            embedding.tokens = nn.Embedding.from_pretrained(packed.weight)
            for head in (module for module in modules if isinstance(module, TiedHead) and module.table is packed):
                head.pack(embedding.tokens)
    for head in (module for module in modules if isinstance(module, UntiedHead) and module.packed is not None):
        head.weight, head.packed = nn.Parameter(head.table.weight, requires_grad=False), None  # type: ignore[arg-type]


def build_head(config: ModelConfig, embedding: Embedding, *, bias: bool = False) -> Head:
    """A head, tied to `embedding` or not."""
    return TiedHead(config, bias, embedding) if config.tie_embeddings else UntiedHead(config, bias)


def shift_labels(labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """[a b c] -> [b c -100]: the label of each position's prediction."""
    shifted = torch.full_like(labels, IGNORE_INDEX)
    shifted[:, :-1] = labels[:, 1:]
    return shifted


def shift_right(labels: Int[Tensor, "B T"], start_id: int) -> Int[Tensor, "B T"]:
    """[a b -100] -> [start a b]: decoder inputs that predict `labels`; -100 becomes `start_id`."""
    shifted = torch.full_like(labels, start_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill_(shifted == IGNORE_INDEX, start_id)
