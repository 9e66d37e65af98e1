"""Rollouts: groups of answers that the model samples to each prompt, as tokens.

Sampling is reproducible: the random numbers of an answer depend on the seed, the prompt's place and the answer's place alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from groundup.generate import BatchingEngine, Request, SamplingParams


@dataclass(frozen=True)
class SampledAnswer:
    """One answer.

    Attributes:
        tokens: its ids, with the token that ended it.
        finished: whether there is such a token; False: cut off at the largest number of tokens.
    """

    tokens: tuple[int, ...]
    finished: bool


def sample_groups(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    *,
    max_tokens: int,
    stop_ids: Collection[int],
    temperature: float = 1.0,
    seed: int = 0,
    max_batch: int = 64,
    places: Sequence[int] | None = None,
) -> list[list[SampledAnswer]]:
    """`group_size` answers to each prompt, sampled in one batch by the model as it is, its adapter included.

        groups = sample_groups(model, [tokenizer.encode("2 + 2 =")], 4, max_tokens=8, stop_ids=tokenizer.stop_ids)

    Args:
        max_tokens: of an answer, its last token included.
        max_batch: answers that are decoded at the same time; the same number gives the same answers.
        places: of the prompts, where they are a part of all; default: from 0.
    """
    engine = BatchingEngine(model, max_batch=max_batch)
    requests: list[list[Request]] = []
    for prompt_index, prompt in zip(range(len(prompts)) if places is None else places, prompts, strict=True):
        group = []
        for sample_index in range(group_size):
            number = np.random.SeedSequence((seed, prompt_index, sample_index)).generate_state(1, np.uint64)[0]
            sampling = SamplingParams(temperature=temperature, seed=int(number))
            group.append(Request(prompt, max_tokens, sampling))  # no stop tokens: the engine would not return them
            engine.submit(group[-1])
        requests.append(group)
    while engine.busy:
        for output in engine.step():
            if output.token in stop_ids:
                engine.cancel(output.request)
    return [[_answer(request, stop_ids) for request in group] for group in requests]


def _answer(request: Request, stop_ids: Collection[int]) -> SampledAnswer:
    return SampledAnswer(tuple(request.tokens), request.tokens[-1] in stop_ids)


def padded_rows(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """(tokens of each prompt with its answer, padded on the right; a mask that is 1 at the answer)."""
    length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros_like(tokens)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        mask[row, len(prompt) : end] = 1
    return tokens, mask
