"""Encoders (BERT, ModernBERT): every token attends to all others; masked-language modelling and text embeddings."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from groundup.model.attention_mask import compute_positions
from groundup.model.block import build_blocks, build_final_norm
from groundup.model.embedding import Embedding, check_architecture, check_labels, check_tokens
from groundup.model.head import MaskedLMHead, ModelOutput, NoHead
from groundup.model.moe import pop_aux_loss
from groundup.model.position_encoding import build_position_encodings
from groundup.model.weight_init import init_weights
from groundup.recipe import ModelConfig


class Encoder(nn.Module):
    """A bidirectional transformer: predicts masked tokens, or embeds a text as one vector."""

    def __init__(self, config: ModelConfig):
        check_architecture(config, "encoder")
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
        """Logits of the token at each position, or the mean loss of predicting `labels`.

        Args:
            labels: the original token at each masked position, -100 elsewhere.
            document_ids: document of each token in a packed sequence; attention stays inside a document. A padding mask
                of ones and zeros works too: padding is then one more document.
            token_types: the segment of each token (BERT); default: 0.
            z_loss: weight of the squared log-partition; see loss.py.

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
        """The output of the final norm."""
        check_tokens(tokens, self.config)
        positions = compute_positions(tokens, document_ids)
        contexts = self.position_encodings(positions, document_ids)
        x = self.embedding(tokens, positions, token_types)
        for block, layer_type in zip(self.blocks, self.config.layer_types, strict=True):
            x = block(x, contexts[layer_type])
        return self.final_norm(x)

    def embed(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        document_ids: Int[Tensor, "B T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """One vector per row, of the document of the row's first token."""
        hidden = self.hidden_states(tokens, document_ids=document_ids, token_types=token_types)
        document_ids = torch.zeros_like(tokens) if document_ids is None else document_ids
        return self.pool(hidden, document_ids == document_ids[:, :1])


def mean_pool(
    hidden: Float[Tensor, "B T D"], token_mask: Bool[Tensor, "B T"] | Float[Tensor, "B T"]
) -> Float[Tensor, "B D"]:
    """Mean over the tokens of the mask (Reimers & Gurevych 2019, Sentence-BERT), or by their weights."""
    weights = token_mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def cls_pool(hidden: Float[Tensor, "B T D"], token_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The hidden state of the first token, [CLS] in BERT."""
    return hidden[:, 0]


POOLINGS = {"mean": mean_pool, "cls": cls_pool}
