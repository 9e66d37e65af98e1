"""How well does a model guess tokens that were hidden from it? The measure of what reads a text as a whole.

The same share is hidden whatever the training hid, and by the same dice, so that runs compare.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model import IGNORE, Encoder, EncoderDecoder
from groundup.model.hiding import Batch, masked, span_corruption
from groundup.model.output import shift_right
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.tokenizer.special import mask_tokens

SHARE, SPAN = 0.15, 3.0
"""Hidden of the tokens (Devlin et al. 2018), and the mean length of a span (Raffel et al. 2020)."""
BATCH_TOKENS = 2_048
"""Tokens in one forward pass."""

Hide = Callable[[Int[Tensor, "B T"], torch.Generator], Batch]
"""What a model reads and predicts of rows of tokens."""


def hiding(config: ModelConfig, tokenizer: Tokenizer, share: float = SHARE, span: float = SPAN) -> Hide:
    """How text is hidden from a model of this architecture: single tokens from an encoder, spans from an encoder-decoder.

    Raises UserError where the tokenizer has no tokens to stand for what is hidden.
    """
    masks = _masks(tokenizer)
    if not masks or tokenizer.eos_id is None:
        raise UserError(
            f"a model of kind {config.architecture} learns from hidden tokens, and the tokenizer has none to stand for them",
            hint="set tokenizer.mask_tokens=1 for an encoder, 100 for an encoder_decoder",
        )
    if config.architecture == "encoder":
        size, special = tokenizer.vocab_size, sorted(tokenizer.special_ids)
        return lambda tokens, dice: masked(
            tokens, dice, mask_id=masks[0], vocab_size=size, special_ids=special, rate=share
        )
    end = tokenizer.eos_id

    def hide(tokens: Tensor, dice: torch.Generator) -> Batch:
        needed = round(tokens.shape[1] * share / span)
        if needed > len(masks):
            raise UserError(
                f"{tokens.shape[1]} tokens have {needed} hidden spans, and the tokenizer has {len(masks)} tokens for them",
                hint=f"set tokenizer.mask_tokens={needed}, or a smaller train.sequence_length",
            )
        return span_corruption(tokens, dice, sentinel_ids=masks, eos_id=end, rate=share, mean_length=span)

    return hide


def score_hidden(
    model: nn.Module, hide: Hide, shard: TokenShard, length: int, *, max_tokens: int, seed: int
) -> dict[str, float]:
    """Mean loss in nats, share guessed right, and number, of hidden tokens in rows spread evenly over a shard.

    About `max_tokens` tokens are read, in rows of `length`. Raises UserError when the shard is shorter than one.
    """
    if shard.num_tokens < length:
        raise UserError(
            f"{shard.base}: {shard.num_tokens} tokens to score, expected one row of {length} at least",
            hint="raise data.validation_fraction, or set a smaller train.sequence_length",
        )
    count = max(1, min(max_tokens, shard.num_tokens) // length)
    begins = [(shard.num_tokens - length) * row // max(1, count - 1) for row in range(count)]
    rows = torch.from_numpy(
        np.stack([shard.tokens[begin : begin + length] for begin in begins]).astype(np.int64)
    )
    dice = torch.Generator().manual_seed(seed)
    device, was_training = next(model.parameters()).device, model.training
    nats, right, number = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for part in rows.split(max(1, BATCH_TOKENS // length)):
            batch = {name: tensor.to(device) for name, tensor in hide(part, dice).items()}
            chosen = batch["labels"] != IGNORE
            logits, labels = _logits(model, batch)[chosen].float(), batch["labels"][chosen]
            nats += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=-1) == labels).sum())
            number += len(labels)
    model.train(was_training)
    return {"loss": nats / max(1, number), "right": right / max(1, number), "hidden_tokens": number}


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """Scores in the places of the labels."""
    if isinstance(model, EncoderDecoder):
        read = shift_right(batch["labels"], model.config.decoder_start_id)
        return model(batch["tokens"], decoder_tokens=read).logits
    assert isinstance(model, Encoder)
    return model(batch["tokens"]).logits


def _masks(tokenizer: Tokenizer) -> list[int]:
    """The ids of the mask tokens, in order."""
    found = []
    for name in mask_tokens(tokenizer.vocab_size):
        if (id := tokenizer.token_id(name)) is None:
            break
        found.append(id)
    return found
