"""Span corruption in numbers: masked tokens, spans and sequence lengths (T5, Raffel et al. 2020, section 3.1.4)."""

from groundup.artifacts.errors import UserError

MASK_RATE, MEAN_SPAN_LENGTH = 0.15, 3.0
"""Of BERT and T5, and of every evaluation."""


def count_spans(length: int, mask_rate: float, mean_length: float) -> tuple[int, int]:
    """(masked tokens, spans) of a sequence of `length` tokens."""
    masked = min(max(round(length * mask_rate), 1), length - 1)
    return masked, min(max(round(masked / mean_length), 1), masked, length - masked)


def corrupted_lengths(length: int, mask_rate: float, mean_length: float) -> tuple[int, int]:
    """Tokens that the encoder reads and that the decoder predicts: a mask token for each span, and an end of text."""
    masked, spans = count_spans(length, mask_rate, mean_length)
    return length - masked + spans + 1, masked + spans + 1


def check_mask_tokens(
    architecture: str, num_mask_tokens: int, length: int, mask_rate: float, mean_length: float
) -> None:
    """Raises UserError for fewer mask tokens than sequences of `length` tokens need."""
    if architecture == "decoder":
        return
    if num_mask_tokens == 0:
        raise UserError(
            f"model.architecture = {architecture} needs mask tokens, and the tokenizer has none",
            hint="set tokenizer.num_mask_tokens=1 for an encoder, 100 for an encoder_decoder",
        )
    if (
        architecture == "encoder_decoder"
        and (needed := count_spans(length, mask_rate, mean_length)[1]) > num_mask_tokens
    ):
        raise UserError(
            f"{length} tokens have {needed} masked spans, and the tokenizer has {num_mask_tokens} mask tokens",
            hint=f"set tokenizer.num_mask_tokens={needed}, or a smaller train.sequence_length",
        )
