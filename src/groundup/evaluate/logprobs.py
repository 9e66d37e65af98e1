"""Log-probabilities of given tokens, entropy of predictions, and means under a mask. Gradients flow through all of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from groundup.model import Decoder


def token_logprobs(model: Decoder, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
    """log p(tokens[:, i + 1] | tokens[:, : i + 1]) in nats, float32.

    >>> loss = -token_logprobs(model, tokens).mean()
    """
    logits = model(tokens).logits[:, :-1].float()
    return -F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def response_logprobs(model: Decoder, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Float[Tensor, " T"]:
    """log p of each response token given the prompt and the response before it, in nats; the prompt has at least one token.

    >>> response_logprobs(model, tokenizer.encode("2 + 2 ="), tokenizer.encode(" 4")).sum()
    """
    if not prompt_ids:
        raise ValueError("prompt_ids is empty, expected at least one token")
    device = next(model.parameters()).device
    tokens = torch.tensor([[*prompt_ids, *response_ids]], device=device)
    return token_logprobs(model, tokens)[0, len(prompt_ids) - 1 :]


def entropy(logits: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    """Entropy in nats of the distribution that each row of logits stands for; logits of -inf are impossible tokens."""
    logprobs = logits.float().log_softmax(dim=-1)
    # Clamped: 0 * -inf would be nan, forward and backward.
    return -(logprobs.exp() * logprobs.clamp_min(torch.finfo(torch.float32).min)).sum(dim=-1)


def masked_mean(
    values: Float[Tensor, "..."], mask: Shaped[Tensor, "..."], dim: int | None = None
) -> Float[Tensor, "..."]:
    """Mean of the values where `mask` is nonzero, over `dim` or over everything; nan where the mask is empty."""
    selected = torch.where(mask.bool(), values, 0)
    if dim is None:
        return selected.sum() / mask.bool().sum()
    return selected.sum(dim) / mask.bool().sum(dim)
