"""Log-probabilities of the response tokens of a batch, for losses on whole responses (DPO, GRPO, distillation).

`evaluate/logprobs.py` has the same for one response, from all logits at once. Here only response positions pass the head, in
chunks whose logits are computed again in the backward pass: logits of 8,192 tokens and 128,000 vocabulary entries are 4 GB.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from groundup.evaluate.logprobs import entropy as token_entropy
from groundup.model.matmul_precision import matmul_dtype

CHUNK_LOGITS = 1 << 24
"""Logits of one chunk: 64 MB in float32."""


def masked_log_probs(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    *,
    document_ids: Int[Tensor, "B T"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "B T"]:
    """log p of each token where `mask` is nonzero, given the tokens before it, in nats, float32; 0 elsewhere.

    The first token of a row has no prediction: 0. Gradients flow to all weights.

        log_probs = masked_log_probs(model, tokens, mask)
        sequence_log_probs = log_probs.sum(dim=1)

    Args:
        mask: 1 at response tokens. Rows may be padded on the right: later tokens have no influence on earlier ones.
        document_ids: document of each token in packed rows; see Decoder.forward.
        temperature: logits are divided by it, as in sampling.
    """
    return _score_tokens(model, tokens, mask, document_ids, temperature, False)[0]


def masked_log_probs_and_entropy(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    *,
    document_ids: Int[Tensor, "B T"] | None = None,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """(`masked_log_probs`, the entropy in nats of the distribution that each of these tokens was predicted from)."""
    log_probs, entropies = _score_tokens(model, tokens, mask, document_ids, temperature, True)
    return log_probs, entropies


def predicted_positions(mask: Shaped[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """`mask` as booleans, without the first token of each row, which nothing predicts."""
    positions = mask.bool().clone()
    positions[:, 0] = False
    return positions


def _score_tokens(
    model: nn.Module, tokens: Tensor, mask: Tensor, document_ids: Tensor | None, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    positions = predicted_positions(mask)
    with parametrize.cached():  # of trained token rows: one copy of the matrix for the embedding and the head
        hidden: Tensor = model.hidden_states(tokens, document_ids=document_ids)  # type: ignore[operator]
        states = hidden[:, :-1][positions[:, 1:]]
        head: Any = model.head
        weight = head.weight.to(matmul_dtype(states))
    targets = tokens[positions]
    size = max(1, CHUNK_LOGITS // weight.shape[0])
    chunks = [
        checkpoint(
            _score_chunk, states[begin : begin + size], weight, targets[begin : begin + size], head, temperature,
            with_entropy, use_reentrant=False, preserve_rng_state=False,
        )
        for begin in range(0, max(1, len(states)), size)
    ]  # fmt: skip
    log_probs, entropies = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    zeros = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    return zeros.masked_scatter(positions, log_probs), zeros.masked_scatter(positions, entropies)


def _score_chunk(
    states: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    head: Any,
    temperature: float,
    with_entropy: bool,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    logits = head.softcap(nn.functional.linear(head.scale(states), weight, head.bias)).float() / temperature
    log_probs = -nn.functional.cross_entropy(logits, targets, reduction="none")
    return log_probs, token_entropy(logits) if with_entropy else torch.zeros_like(log_probs)
