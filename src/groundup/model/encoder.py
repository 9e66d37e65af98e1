"""The encoder: a transformer in which every token sees all others (BERT, ModernBERT).

It learns by filling in masked tokens, and is used for what a text means: one vector for each text.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from groundup.model.attention_mask import compute_positions
from groundup.model.block import build_blocks, build_final_norm
from groundup.model.embedding import Embedding, check_labels, check_tokens
from groundup.model.head import MaskedLMHead, NoHead
from groundup.model.model_output import ModelOutput
from groundup.model.moe import pop_aux_loss
from groundup.model.position_encoding import build_position_encodings
from groundup.model.weight_init import init_weights
from groundup.recipe import ModelConfig


class Encoder(nn.Module):
    """Reads a text as a whole: predicts masked tokens, or gives one vector for the text."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.position_encodings = build_position_encodings(config, config.layer_types, causal=False)
        self.blocks = build_blocks(config, config.num_layers)
        self.final_norm = build_final_norm(config)
        self.head = MaskedLMHead(config, self.embedding) if config.masked_lm_head else NoHead()
        self.pool = POOLINGS[config.pooling]
        init_weights(self, config)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        labels: Int[Tensor, "B T"] | None = None,
        *,
        document_ids: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
        z_loss: float = 0.0,
    ) -> ModelOutput:
        """Scores of the token in each place, or the mean loss of predicting `labels`.

        Args:
            labels: the token that stood in each place; -100 is not predicted, which is most places.
            documents: number of the document that each token belongs to; documents do not see each other.
                Padding is a document of its own, so a mask of ones and zeros will do.
            token_types: the segment of each token (BERT); default: 0.
            z_loss: weight of the squared log-partition, see loss.py.

        Raises UserError beyond the context length and, on a CPU, for ids outside the vocabulary.
        """
        hidden = self.hidden_states(tokens, document_ids=document_ids, token_types=token_types)
        if labels is None:
            return ModelOutput(self.head(hidden), None)
        check_labels(labels, tokens, self.config)
        return ModelOutput(None, self.head.loss(hidden, labels, z_loss) + pop_aux_loss(self))

    def hidden_states(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        document_ids: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The last block's output, normalised."""
        check_tokens(tokens, self.config)
        positions = compute_positions(tokens, document_ids)
        views = {kind: sight(positions, document_ids) for kind, sight in self.position_encodings.items()}
        x = self.embedding(tokens, positions, token_types)
        for block, kind in zip(self.blocks, self.config.layer_types, strict=True):
            x = block(x, views[kind])
        return self.final_norm(x)

    def embed(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        document_ids: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """One vector for each row: of the document that the row's first token belongs to."""
        hidden = self.hidden_states(tokens, document_ids=document_ids, token_types=token_types)
        own = (
            torch.ones_like(tokens, dtype=torch.bool)
            if document_ids is None
            else document_ids == document_ids[:, :1]
        )
        return self.pool(hidden, own)


def mean_pool(hidden: Float[Tensor, "B T D"], token_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Mean of the tokens that count (Reimers & Gurevych 2019, Sentence-BERT)."""
    weights = token_mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def cls_pool(hidden: Float[Tensor, "B T D"], token_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The state of the first token, which BERT calls [CLS]."""
    return hidden[:, 0]


POOLINGS = {"mean": mean_pool, "cls": cls_pool}
