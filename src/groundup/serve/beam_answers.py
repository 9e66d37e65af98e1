"""Answers by beam search (`use_beam_search`): the likeliest texts of a prompt, as translations and summaries are written."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from groundup.generate import StreamDetokenizer
from groundup.generate.beam_search import Beam, search_steps
from groundup.generate.generation import (
    GenerativeModel,
    continued_ids,
    decoder_ids,
    max_prompt_tokens,
    remaining_context,
)
from groundup.serve.api_error import ApiError
from groundup.serve.completion_choices import SearchedChoice
from groundup.serve.protocol import CompletionRequest
from groundup.serve.served_model import ServedModel


async def search_answers(
    model: ServedModel, body: CompletionRequest, prompts: Sequence[Sequence[int]], max_tokens: int, client: str
) -> list[SearchedChoice]:
    """The `n` likeliest texts of each prompt; other requests run between two steps of the search, other searches after it.

    The keys and values of a search are outside of the engine's cache, and take as much memory at most.

    Raises ApiError 400 for a prompt that is too long.
    """
    prefix, choices = model.decoder_prefix(body.target_language), list[SearchedChoice]()
    options: dict[str, Any] = {} if body.length_penalty is None else {"length_penalty": body.length_penalty}
    for prompt in prompts:
        model.check_length(prompt, max_prompt_tokens(model.model.config))
        async with model.engine_thread.search_lock:
            most = await model.engine_thread.cache_tokens(client) // body.num_beams
            room = most - len(decoder_ids(model.model, prompt, prefix))
            if room < 1:
                raise ApiError(
                    400,
                    f"the prompt has {len(prompt)} tokens, expected fewer than {most} with {body.num_beams} beams: "
                    "the key/value cache holds no more",
                    code="context_length_exceeded",
                )
            limit = min(max_tokens, model.max_tokens, remaining_context(model.model, prompt, prefix), room)
            steps = search_steps(
                cast(GenerativeModel, model.model), prompt, num_beams=body.num_beams, max_tokens=limit,
                stop_ids=body.stop_ids(model.tokenizer.stop_ids), decoder_prefix=prefix, **options,
            )  # fmt: skip
            beams: list[Beam] = []
            while (found := await model.engine_thread.call(partial(next, steps, None), client)) is not None:
                beams = found
            del steps  # and its cache
        context = continued_ids(model.model, prompt)
        for tokens, _ in beams[: body.n or 1]:
            text = StreamDetokenizer(model.tokenizer, context).decode_all(tokens)
            reason = "length" if len(tokens) == limit else "stop"
            choices.append(SearchedChoice(len(choices), text, len(tokens), reason))
    return choices
