"""Tokens that are added to the vocabulary of a model that exists.

A new row of the token matrices is the mean of the others: a random row, or one of zeros, would make its token likelier than most
before it was ever seen (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
"""

from collections.abc import Sequence
from typing import Any

import tokenizers
import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.model import assign_weights, build_meta_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

TOKEN_TENSORS = ("embedding.tokens.weight", "head.weight", "head.bias")
"""Tensors of a decoder with one row or number a token; a tied head has none."""


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[int]:
    """Add ordinary tokens, which text encodes to wherever it contains them. Returns their ids.

    Raises UserError for an empty token, and for one that the tokenizer has.
    """
    for position, token in enumerate(tokens):
        if not token or token in tokens[:position] or tokenizer.token_id(token) is not None:
            problem = "empty" if not token else "in the vocabulary, or named twice"
            raise UserError(f"base.add_tokens: {token!r} is {problem}, expected new tokens")
    tokenizer.backend.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in tokens])
    ids = (tokenizer.token_id(token) for token in tokens)
    return [id for id in ids if id is not None]


def extended_config(config: ModelConfig, ids: Sequence[int]) -> ModelConfig:
    """`config` with a vocabulary that has `ids`. Raises UserError unless it is a decoder's."""
    if config.architecture != "decoder":
        raise UserError(f"base.add_tokens: the model is an {config.architecture}, expected a decoder")
    return config.model_copy(update={"vocab_size": max(config.vocab_size, *(id + 1 for id in ids))})


@torch.no_grad()
def extend_vocabulary(model: nn.Module, ids: Sequence[int], num_known: int) -> nn.Module:
    """`model` with rows for the tokens `ids`: means of the first `num_known` rows, those of the other tokens."""
    config: Any = extended_config(model.config, ids)  # type: ignore[arg-type]
    weights = dict(model.state_dict())
    for name in TOKEN_TENSORS:
        if (old := weights.get(name)) is None:
            continue
        new = old.new_zeros(config.vocab_size, *old.shape[1:])
        new[: len(old)] = old
        new[list(ids)] = old[:num_known].float().mean(dim=0).to(old.dtype)
        weights[name] = new
    extended = build_meta_model(config)
    assign_weights(extended, weights, source="base.add_tokens")
    return extended.requires_grad_().eval()
