"""Log-probabilities of the tokens of a prompt: how likely a model finds a given text, token by token."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from groundup.artifacts.errors import UserError
from groundup.generate.sampling import log_probabilities, top_logprobs
from groundup.model import Decoder

SCORED_TOKENS = 128
"""Tokens scored at a time: the logits of a large vocabulary are many."""


class TokenScore(NamedTuple):
    """A token of a prompt: its log-probability in nats, its rank (1: the most likely), and ids and log-probabilities of the
    most likely tokens at its place."""

    logprob: float
    rank: int
    top: list[tuple[int, float]]


def score_prompt(model: Decoder, prompt_ids: Sequence[int], top: int = 0) -> Iterator[list[TokenScore]]:
    """The log-probability of each token but the first after those before it, in chunks; with the `top` most likely tokens.

    Raises UserError when the prompt is longer than the context.

    >>> [score.logprob for chunk in score_prompt(model, tokenizer.encode("Once upon a time")) for score in chunk]
    """
    length = model.config.cached_context_length
    if len(prompt_ids) > length:
        raise UserError(f"{len(prompt_ids)} tokens, expected at most context_length = {length}")
    cache = model.new_cache(1, max(len(prompt_ids), 1))
    device = next(model.parameters()).device
    for begin in range(0, len(prompt_ids) - 1, SCORED_TOKENS):
        followed = prompt_ids[begin : min(begin + SCORED_TOKENS, len(prompt_ids) - 1)]
        with torch.inference_mode():
            states = model.hidden_states(torch.tensor([followed], device=device), cache=cache)
            rows = log_probabilities(model.head(states)[0])
        scores = []
        for row, token in zip(rows, prompt_ids[begin + 1 :], strict=False):
            rank = 1 + int((row > row[token]).sum())
            scores.append(TokenScore(float(row[token]), rank, top_logprobs(row, top) if top else []))
        yield scores
