"""Weights of tokens in the mean that embeds a text: frequent tokens, which tell little, count less.

Smooth inverse frequency: a / (a + p) for a token with the share p of the training text (Arora et al. 2017, A Simple but
Tough-to-Beat Baseline for Sentence Embeddings). They are a buffer of the model that its configuration does not know of,
in a file of its own.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from groundup.artifacts.errors import UserError

TOKEN_WEIGHTS, TOKEN_WEIGHTS_FILE = "token_weights", "token_weights.safetensors"
SMOOTHING = 1e-3
"""The a of Arora et al., who found 1e-4 to 1e-3 best."""


def inverse_frequency_weights(counts: Int[Tensor, " V"]) -> Float[Tensor, " V"]:
    """The weight of each token, from how often it occurs in some text."""
    return SMOOTHING / (SMOOTHING + counts.float() / counts.sum().clamp(min=1))


def set_token_weights(model: nn.Module, weights: Float[Tensor, " V"] | None) -> None:
    """Weight the tokens of `model` by `weights`; None: all alike."""
    device = next(model.parameters()).device
    model.register_buffer(TOKEN_WEIGHTS, weights if weights is None else weights.to(device), persistent=False)


def get_token_weights(model: nn.Module) -> Float[Tensor, " V"] | None:
    """The weights of `set_token_weights`; None: all tokens count alike."""
    return getattr(model, TOKEN_WEIGHTS, None)


def load_token_weights(model: nn.Module, folder: Path) -> None:
    """Set the weights that are stored in `folder`, if there are any. Raises UserError for a damaged file."""
    path = folder / TOKEN_WEIGHTS_FILE
    if not path.is_file():
        return
    try:
        weights = load_file(path)[TOKEN_WEIGHTS]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: damaged: {str(error).splitlines()[0]}") from None
    if weights.shape != (model.config.vocab_size,):  # type: ignore[union-attr]
        raise UserError(f"{path}: shape {tuple(weights.shape)}, expected one weight for each token of the vocabulary")
    set_token_weights(model, weights.to(torch.float32))
