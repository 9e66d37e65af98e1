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
from groundup.model import IGNORE_INDEX, Encoder, EncoderDecoder
from groundup.model.model_output import shift_right
from groundup.model.token_masking import ModelInputs, mask_random_tokens, span_corruption
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.tokenizer.special_tokens import mask_token_names

MASK_RATE, MEAN_SPAN_LENGTH = 0.15, 3.0
"""Hidden of the tokens (Devlin et al. 2018), and the mean length of a span (Raffel et al. 2020)."""
BATCH_TOKENS = 2_048
"""Tokens in one forward pass."""

MaskFunction = Callable[[Int[Tensor, "B T"], torch.Generator], ModelInputs]
"""What a model reads and predicts of rows of tokens."""


def make_mask_function(
    config: ModelConfig,
    tokenizer: Tokenizer,
    mask_rate: float = MASK_RATE,
    mean_span_length: float = MEAN_SPAN_LENGTH,
) -> MaskFunction:
    """How text is hidden from a model of this architecture: single tokens from an encoder, spans from an encoder-decoder.

    Raises UserError where the tokenizer has no tokens to stand for what is hidden.
    """
    masks = _mask_token_ids(tokenizer)
    if not masks or tokenizer.eos_id is None:
        raise UserError(
            f"a model of kind {config.architecture} learns from hidden tokens, and the tokenizer has none to stand for them",
            hint="set tokenizer.num_mask_tokens=1 for an encoder, 100 for an encoder_decoder",
        )
    if config.architecture == "encoder":
        size, special = tokenizer.vocab_size, sorted(tokenizer.special_ids)
        return lambda tokens, dice: mask_random_tokens(
            tokens, dice, mask_id=masks[0], vocab_size=size, special_ids=special, mask_rate=mask_rate
        )
    end = tokenizer.eos_id

    def hide(tokens: Tensor, dice: torch.Generator) -> ModelInputs:
        needed = round(tokens.shape[1] * mask_rate / mean_span_length)
        if needed > len(masks):
            raise UserError(
                f"{tokens.shape[1]} tokens have {needed} hidden spans, and the tokenizer has {len(masks)} tokens for them",
                hint=f"set tokenizer.num_mask_tokens={needed}, or a smaller train.sequence_length",
            )
        return span_corruption(
            tokens, dice, sentinel_ids=masks, eos_id=end, mask_rate=mask_rate, mean_length=mean_span_length
        )

    return hide


def score_masked(
    model: nn.Module,
    mask_function: MaskFunction,
    shard: TokenShard,
    length: int,
    *,
    max_tokens: int,
    seed: int,
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
            batch = {name: tensor.to(device) for name, tensor in mask_function(part, dice).items()}
            chosen = batch["labels"] != IGNORE_INDEX
            logits, labels = _logits(model, batch)[chosen].float(), batch["labels"][chosen]
            nats += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=-1) == labels).sum())
            number += len(labels)
    model.train(was_training)
    return {"loss": nats / max(1, number), "accuracy": right / max(1, number), "masked_tokens": number}


def _logits(model: nn.Module, batch: ModelInputs) -> Tensor:
    """Scores in the places of the labels."""
    if isinstance(model, EncoderDecoder):
        read = shift_right(batch["labels"], model.config.decoder_start_token_id)
        return model(batch["tokens"], decoder_tokens=read).logits
    assert isinstance(model, Encoder)
    return model(batch["tokens"]).logits


def _mask_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of the mask tokens, in order."""
    found = []
    for name in mask_token_names(tokenizer.vocab_size):
        if (id := tokenizer.token_id(name)) is None:
            break
        found.append(id)
    return found
