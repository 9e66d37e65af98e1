"""Comparison of a model with the export of it: logits, and ids of a text in which tokenizers differ."""

from typing import Any

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

SAMPLE_TOKENS = 32
HARD_TEXT = (
    "It's 12345 on 2024-01-02; DON'T  pay $6.50!\n\n\tdef f(x):\r\n    return x**2   \u00e9 e\u0301 \u212b \uff21 "
    "\u65e5\u672c\u8a9e \u0928\u092e\u0938\u094d\u0924\u0947 \U0001f642 \u200d end   "
)
"""Digits, contractions, spaces, line ends, code, composed and decomposed letters, scripts without spaces, emoji."""


@torch.no_grad()
def sample_outputs(model: nn.Module, *, has_score: bool = False) -> dict[str, Tensor]:
    """Float32 logits, and hidden states of an encoder, for tokens spread over the vocabulary. The model becomes float32.

    has_score: of a reward model, which has hidden states and no logits.
    """
    model = model.float()
    config: ModelConfig = model.config  # type: ignore[assignment]
    tokens = torch.arange(min(SAMPLE_TOKENS, config.context_length))[None] * 7919 % config.vocab_size
    call: Any = model
    if config.architecture == "encoder_decoder":
        return {"logits": call(tokens, decoder_tokens=tokens).logits}
    if has_score:
        return {"hidden states": call.hidden_states(tokens)}
    if config.architecture == "encoder":
        hidden = {"hidden states": call.hidden_states(tokens)}
        return hidden | ({"logits": call(tokens).logits} if config.masked_lm_head else {})
    return {"logits": call(tokens).logits}


def largest_difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The largest absolute difference of a logit, or of a hidden state where the export has no head. NaN counts as infinite."""
    name = "logits" if "logits" in expected and "logits" in found else "hidden states"
    return (expected[name] - found[name]).abs().nan_to_num(nan=torch.inf).max().item()


def check_token_ids(tokenizer: Tokenizer, exported: Tokenizer, source: str) -> None:
    """Raises UserError where the exported tokenizer gives other ids for HARD_TEXT."""
    expected, found = tokenizer.encode(HARD_TEXT), exported.encode(HARD_TEXT)
    if expected != found:
        at = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), -1)
        raise UserError(
            f"{source}: the exported tokenizer gives other ids, first for token {at} of a text: "
            f"{tokenizer.token(expected[at])!r}, exported {exported.token(found[at]) if found else None!r}",
            hint="the format has no form for the rules of this tokenizer; use the huggingface format",
        )
