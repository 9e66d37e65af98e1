"""Masked language modeling scores: loss and accuracy on masked tokens, for encoders and encoder-decoders.

The mask rate and the seed do not depend on those of training, so that runs compare.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.model import IGNORE_INDEX, Encoder, EncoderDecoder
from groundup.model.head import shift_right
from groundup.model.token_masking import ModelInputs, mask_random_tokens, span_corruption
from groundup.plan.shape.masked_spans import MASK_RATE, MEAN_SPAN_LENGTH, check_mask_tokens
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer, TokenShard
from groundup.tokenizer.special_tokens import mask_token_names

BATCH_TOKENS = 2_048
"""Tokens in one forward pass."""

MaskFunction = Callable[[Int[Tensor, "B T"], torch.Generator], ModelInputs]
"""Maps tokens (B T) and a random generator to the model's inputs and labels."""


def make_mask_function(
    config: ModelConfig, tokenizer: Tokenizer, mask_rate: float = MASK_RATE, mean_span_length: float = MEAN_SPAN_LENGTH
) -> MaskFunction:
    """The masking of an architecture: single tokens for an encoder, spans for an encoder-decoder.

    Raises UserError when the tokenizer has no mask tokens.
    """
    mask_ids, eos_id = _mask_token_ids(tokenizer), tokenizer.eos_id
    check_mask_tokens(config.architecture, len(mask_ids) if eos_id is not None else 0, 2, mask_rate, mean_span_length)
    if config.architecture == "encoder":
        size, special = tokenizer.vocab_size, sorted(tokenizer.special_ids)
        return lambda tokens, generator: mask_random_tokens(
            tokens, generator, mask_id=mask_ids[0], vocab_size=size, special_ids=special, mask_rate=mask_rate
        )
    assert eos_id is not None

    def corrupt_spans(tokens: Tensor, generator: torch.Generator) -> ModelInputs:
        check_mask_tokens("encoder_decoder", len(mask_ids), tokens.shape[1], mask_rate, mean_span_length)
        return span_corruption(
            tokens, generator, sentinel_ids=mask_ids, eos_id=eos_id, mask_rate=mask_rate, mean_length=mean_span_length
        )

    return corrupt_spans


def score_masked(
    model: nn.Module, mask_function: MaskFunction, shard: TokenShard, length: int, *, max_tokens: int, seed: int
) -> dict[str, float]:
    """{"loss" (nats), "accuracy", "masked_tokens"} over evenly spaced sequences of `length` tokens of a shard.

    About `max_tokens` tokens are read. Raises UserError when the shard is shorter than one sequence.
    """
    if shard.num_tokens == 0:
        raise UserError(f"{shard.base}: no document was held out", hint="raise data.validation_fraction")
    if shard.num_tokens < length:
        raise UserError(
            f"{shard.base}: {shard.num_tokens} tokens to score, expected at least train.sequence_length = {length}",
            hint="raise data.validation_fraction, or set a smaller train.sequence_length",
        )
    count = max(1, min(max_tokens, shard.num_tokens) // length)
    begins = [(shard.num_tokens - length) * i // max(1, count - 1) for i in range(count)]
    sequences = torch.from_numpy(np.stack([shard.tokens[begin : begin + length] for begin in begins]).astype(np.int64))
    return score_masked_sequences(model, mask_function, sequences, seed)


def score_masked_text(model: nn.Module, tokenizer: Tokenizer, text: str, *, seed: int = 0) -> dict[str, float]:
    """`score_masked` of a text, in consecutive sequences of the model's context; a shorter rest is read with the text before it.

    Raises UserError when the text is empty, and when the tokenizer has no mask tokens.
    """
    config = model.config
    assert isinstance(config, ModelConfig)
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise UserError(f"a text of {len(text)} characters cannot be scored", hint="a paragraph or more of text")
    length = min(config.context_length, len(ids))
    begins = [*range(0, len(ids) - length, length), len(ids) - length]
    sequences = torch.tensor([ids[begin : begin + length] for begin in begins])
    return score_masked_sequences(model, make_mask_function(config, tokenizer), sequences, seed)


def score_masked_sequences(
    model: nn.Module, mask_function: MaskFunction, sequences: Int[Tensor, "N T"], seed: int
) -> dict[str, float]:
    """{"loss" (nats), "accuracy", "masked_tokens"} over sequences of one length."""
    generator = torch.Generator().manual_seed(seed)
    device, was_training = next(model.parameters()).device, model.training
    nats, num_correct, num_masked = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for tokens in sequences.split(max(1, BATCH_TOKENS // sequences.shape[1])):
            batch = {name: tensor.to(device) for name, tensor in mask_function(tokens, generator).items()}
            masked = batch["labels"] != IGNORE_INDEX
            logits, labels = _logits(model, batch)[masked].float(), batch["labels"][masked]
            nats += F.cross_entropy(logits, labels, reduction="sum").item()
            num_correct += int((logits.argmax(dim=-1) == labels).sum())
            num_masked += len(labels)
    model.train(was_training)
    return {
        "loss": nats / max(1, num_masked),
        "accuracy": num_correct / max(1, num_masked),
        "masked_tokens": num_masked,
    }


def _logits(model: nn.Module, batch: ModelInputs) -> Tensor:
    """Logits at the positions of the labels (B T V)."""
    if isinstance(model, EncoderDecoder):
        decoder_tokens = shift_right(batch["labels"], model.config.decoder_start_token_id)
        return model(batch["tokens"], decoder_tokens=decoder_tokens).logits
    assert isinstance(model, Encoder)
    return model(batch["tokens"]).logits


def _mask_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of the mask tokens, in order: groundup's, those of T5, or the one of BERT or RoBERTa."""
    count = tokenizer.vocab_size
    for names in (mask_token_names(count), (f"<extra_id_{index}>" for index in range(count)), ("[MASK]",), ("<mask>",)):
        ids = [id for id in map(tokenizer.token_id, names) if id is not None]
        if ids:
            return ids
    return []
