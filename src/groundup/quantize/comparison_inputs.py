"""What a quantized model predicts in the comparison with its float model, by architecture.

A decoder predicts the next token, an encoder masked tokens, an encoder-decoder the masked spans or, without mask tokens, the
second half of a window given the first.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.evaluate.masked_lm import make_mask_function
from groundup.model import IGNORE_INDEX, Decoder, Encoder, EncoderDecoder
from groundup.model.head import shift_right
from groundup.model.token_masking import ModelInputs
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

InputsFunction = Callable[[Tensor], ModelInputs]
"""Maps windows of tokens (N T) to `tokens` (N S) and `labels` (N L), which are -100 where nothing is predicted."""


def next_token_inputs(windows: Tensor) -> ModelInputs:
    """Every token after the first is predicted."""
    labels = torch.cat([windows[:, 1:], torch.full_like(windows[:, :1], IGNORE_INDEX)], 1)
    return {"tokens": windows, "labels": labels}


def comparison_inputs(config: ModelConfig, tokenizer: Tokenizer, seed: int) -> InputsFunction:
    """The function for a model of `config`. The masks are drawn from `seed`: every call with equal windows gives equal masks.

    An encoder without mask tokens or without a head predicts nothing: only its embeddings are compared.
    """
    if config.architecture == "decoder":
        return next_token_inputs
    without_masks = _second_half_inputs if config.architecture == "encoder_decoder" else _unpredicted_inputs
    if config.architecture == "encoder" and not config.masked_lm_head:
        return without_masks

    def inputs_of(windows: Tensor) -> ModelInputs:
        try:
            return make_mask_function(config, tokenizer)(windows, torch.Generator().manual_seed(seed))
        except UserError:  # no mask tokens, or fewer than windows of this length need
            return without_masks(windows)

    return inputs_of


def _second_half_inputs(windows: Tensor) -> ModelInputs:
    half = windows.shape[1] // 2
    return {"tokens": windows[:, :half], "labels": windows[:, half:]}


def _unpredicted_inputs(windows: Tensor) -> ModelInputs:
    return {"tokens": windows, "labels": torch.full_like(windows, IGNORE_INDEX)}


class Predictions(NamedTuple):
    """What a model makes of one batch.

    Attributes:
        hidden: at the predicted positions, (N D); logits (N V) of an encoder-decoder.
        head: from `hidden` to logits.
        embeddings: of the rows, (B D); encoders only.
    """

    hidden: Tensor
    head: Callable[[Tensor], Tensor]
    embeddings: Tensor | None


def predict(model: nn.Module, inputs: ModelInputs) -> Predictions:
    """The predictions of a decoder, encoder or encoder-decoder."""
    tokens, predicted = inputs["tokens"], inputs["labels"] != IGNORE_INDEX
    if isinstance(model, EncoderDecoder):
        decoder_tokens = shift_right(inputs["labels"], model.config.decoder_start_token_id)
        return Predictions(model(tokens, decoder_tokens=decoder_tokens).logits[predicted], lambda logits: logits, None)
    assert isinstance(model, Decoder | Encoder)
    hidden = model.hidden_states(tokens)
    if isinstance(model, Decoder):
        return Predictions(hidden[predicted], model.logits, None)
    return Predictions(hidden[predicted], model.head, model.pool(hidden, torch.ones_like(predicted)))
