"""The decoder: a transformer that reads from left to right and predicts what comes next (GPT, Llama, ...)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.block import build_blocks, build_final_norm
from groundup.model.cache import Cache, KeyValueCache
from groundup.model.embedding import Embedding, build_head, build_scale, build_softcap, check_tokens
from groundup.model.init import init_weights
from groundup.model.loss import IGNORE, linear_cross_entropy
from groundup.model.mask import positions_in_documents
from groundup.model.sight import build_sights
from groundup.recipe import ModelConfig


class Output(NamedTuple):
    """What a model returns. Logits are left out where a loss was asked for: making them would cost V numbers a token."""

    logits: Float[Tensor, "B T V"] | None
    loss: Float[Tensor, ""] | None


class Decoder(nn.Module):
    """Predicts each token from those before it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.sights = build_sights(config, causal=True)
        self.blocks = build_blocks(config, config.num_layers)
        self.final_norm = build_final_norm(config)
        self.scale = build_scale(config.logit_scale)
        self.head = build_head(config, self.embedding)
        self.softcap = build_softcap(config.logit_softcap)
        init_weights(self, config)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        labels: Int[Tensor, "B T"] | None = None,
        *,
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        z_loss: float = 0.0,
    ) -> Output:
        """Scores of the token after each one, or the mean loss of predicting `labels`.

        Args:
            labels: what to predict, in the places of `tokens`: usually the tokens themselves. The model shifts them:
                position t predicts labels[t + 1]. -100 is not predicted.
            documents: number of the document that each token belongs to; documents do not see each other.
            cache: keys and values of earlier tokens; those of `tokens` are appended.
            z_loss: weight of the squared log-partition, see loss.py.
        """
        hidden = self.hidden_states(tokens, documents=documents, cache=cache)
        if labels is None:
            return Output(self.logits(hidden), None)
        return Output(None, self.loss(hidden, next_labels(labels), z_loss))

    def hidden_states(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """What the head sees: the last block's output, normalised and scaled."""
        check_tokens(tokens, self.config, 0 if cache is None else cache.length)
        if cache is not None:
            positions = cache.positions(tokens.shape[1])
        elif documents is not None:
            positions = positions_in_documents(documents)
        else:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        views = {kind: sight(positions, documents, cache) for kind, sight in self.sights.items()}
        x = self.embedding(tokens, positions)
        for block, kind in zip(self.blocks, self.config.layer_kinds, strict=True):
            x = block(x, views[kind], cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.scale(self.final_norm(x))

    def logits(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """A score of every token, for each hidden state."""
        return self.softcap(self.head(hidden))

    def loss(
        self, hidden: Float[Tensor, "B T D"], labels: Int[Tensor, "B T"], z_loss: float = 0.0
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the logits of `hidden`, which are never made in one piece."""
        return linear_cross_entropy(
            hidden.flatten(0, 1),
            self.head.weight,
            labels.flatten(),
            bias=self.head.bias,
            softcap=self.config.logit_softcap,
            z_loss=z_loss,
        )

    def new_cache(self, batch_size: int, max_length: int | None = None) -> KeyValueCache:
        """An empty cache for `batch_size` sequences of at most `max_length` tokens; default: the context length."""
        weight = self.embedding.tokens.weight
        return KeyValueCache(
            self.config, batch_size, max_length or self.config.context_length, weight.dtype, weight.device
        )


def next_labels(labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """[a b c] -> [b c -100]: what each position predicts."""
    shifted = torch.full_like(labels, IGNORE)
    shifted[:, :-1] = labels[:, 1:]
    return shifted
