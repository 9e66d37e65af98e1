"""Log-probabilities of the tokens of prompts, as part of a response: `echo` with `logprobs`, and `prompt_logprobs`."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import cast

from groundup.generate.generation import max_prompt_tokens
from groundup.generate.prompt_logprobs import TokenScore, score_prompt
from groundup.model import Decoder
from groundup.serve.api_error import ApiError
from groundup.serve.completion_choices import EchoedPrompt, ScoredPrompt, echoed_prompt
from groundup.serve.protocol import CompletionRequest, SamplingRequest
from groundup.serve.served_model import MAX_LOGPROBS, ServedModel


async def prompt_scores(
    model: ServedModel,
    body: SamplingRequest,
    prompts: Sequence[Sequence[int]],
    client: str,
    *,
    echoed: int | None = None,
) -> list[list[TokenScore]]:
    """The log-probabilities of the tokens of prompts; none, if the request asks for none.

    echoed: so many likely tokens of each are part of an echo.

    Raises ApiError 400 for an encoder-decoder, whose answers do not continue the prompt, and for too many
    log-probabilities.
    """
    name = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
    if not isinstance(model.model, Decoder):
        raise ApiError(
            400, f"{name}: {model.name} is an encoder-decoder, whose answers do not continue the prompt", param=name
        )
    for prompt in prompts:
        model.check_length(prompt, max_prompt_tokens(model.model.config))
    tops = [top for top in (echoed, body.prompt_logprobs) if top is not None]
    if not tops:
        return []
    count = sum(map(len, prompts)) * (body.n or 1) * (max(tops) + 1)
    if count > MAX_LOGPROBS:
        raise ApiError(
            400,
            f"{count:,} log-probabilities of prompts, expected at most {MAX_LOGPROBS:,}",
            param="logprobs" if body.prompt_logprobs is None else "prompt_logprobs",
        )
    return [await _scores_of(model, prompt, max(tops), client) for prompt in prompts]


async def echoes_of(
    model: ServedModel,
    body: CompletionRequest,
    prompts: Sequence[Sequence[int]],
    scores: Sequence[Sequence[TokenScore]],
) -> list[EchoedPrompt]:
    """Prompts that begin the texts of their answers."""
    found = []
    for index, prompt in enumerate(prompts):
        of_prompt = None if body.logprobs is None else scores[index]
        echo = partial(
            echoed_prompt, model.tokenizer, prompt, of_prompt, top=body.logprobs or 0, alone=body.max_tokens == 0
        )
        found.append(await asyncio.to_thread(echo))
    return found


def scored_prompts(
    model: ServedModel, body: SamplingRequest, prompts: Sequence[Sequence[int]], scores: Sequence[Sequence[TokenScore]]
) -> list[ScoredPrompt]:
    """Prompts whose log-probabilities are part of the response; none, if the request asks for none."""
    top = body.prompt_logprobs
    if top is None:
        return []
    return [ScoredPrompt(model.tokenizer, prompt, row, top) for prompt, row in zip(prompts, scores, strict=True)]


async def _scores_of(model: ServedModel, prompt: Sequence[int], top: int, client: str) -> list[TokenScore]:
    """Other requests run between two chunks of the prompt."""
    chunks, scores = score_prompt(cast(Decoder, model.model), prompt, top), []
    while (chunk := await model.engine_thread.call(partial(next, chunks, None), client)) is not None:
        scores += chunk
    return scores
