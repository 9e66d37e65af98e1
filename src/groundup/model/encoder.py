"""The encoder: a transformer in which every token sees all others (BERT, ModernBERT).

It learns by filling in masked tokens, and is used for what a text means: one vector for each text.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from groundup.model.block import build_blocks, build_final_norm
from groundup.model.embedding import Embedding, check_labels, check_tokens
from groundup.model.head import MaskedHead, NoHead
from groundup.model.init import init_weights
from groundup.model.mask import positions_of
from groundup.model.moe import balancing_loss
from groundup.model.output import Output
from groundup.model.sight import build_sights
from groundup.recipe import ModelConfig


class Encoder(nn.Module):
    """Reads a text as a whole: predicts masked tokens, or gives one vector for the text."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.sights = build_sights(config, config.layer_kinds, causal=False)
        self.blocks = build_blocks(config, config.num_layers)
        self.final_norm = build_final_norm(config)
        self.head = MaskedHead(config, self.embedding) if config.masked_head else NoHead()
        self.pool = POOLINGS[config.pooling]
        init_weights(self, config)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        labels: Int[Tensor, "B T"] | None = None,
        *,
        documents: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
        z_loss: float = 0.0,
    ) -> Output:
        """Scores of the token in each place, or the mean loss of predicting `labels`.

        Args:
            labels: the token that stood in each place; -100 is not predicted, which is most places.
            documents: number of the document that each token belongs to; documents do not see each other.
                Padding is a document of its own, so a mask of ones and zeros will do.
            token_types: the segment of each token (BERT); default: 0.
            z_loss: weight of the squared log-partition, see loss.py.

        Raises UserError beyond the context length and, on a CPU, for ids outside the vocabulary.
        """
        hidden = self.hidden_states(tokens, documents=documents, token_types=token_types)
        if labels is None:
            return Output(self.head(hidden), None)
        check_labels(labels, tokens, self.config)
        return Output(None, self.head.loss(hidden, labels, z_loss) + balancing_loss(self))

    def hidden_states(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The last block's output, normalised."""
        check_tokens(tokens, self.config)
        positions = positions_of(tokens, documents)
        views = {kind: sight(positions, documents) for kind, sight in self.sights.items()}
        x = self.embedding(tokens, positions, token_types)
        for block, kind in zip(self.blocks, self.config.layer_kinds, strict=True):
            x = block(x, views[kind])
        return self.final_norm(x)

    def embed(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """One vector for each row: of the document that the row's first token belongs to."""
        hidden = self.hidden_states(tokens, documents=documents, token_types=token_types)
        own = (
            torch.ones_like(tokens, dtype=torch.bool) if documents is None else documents == documents[:, :1]
        )
        return self.pool(hidden, own)


def mean_of_tokens(hidden: Float[Tensor, "B T D"], own: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Mean of the tokens that count (Reimers & Gurevych 2019, Sentence-BERT)."""
    weights = own.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def first_token(hidden: Float[Tensor, "B T D"], own: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The state of the first token, which BERT calls [CLS]."""
    return hidden[:, 0]


POOLINGS = {"mean": mean_of_tokens, "first": first_token}
