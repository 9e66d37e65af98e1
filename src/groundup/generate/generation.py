"""The plain loop: read the prompt once, then one token at a time, each looking back through the cache."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.sampling import SamplingParams, sample_token
from groundup.model import Decoder, KVCache
from groundup.tokenizer import Tokenizer


def generate(
    model: Decoder,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yield the tokens that continue `prompt_ids`, as they come.

    Ends after `max_tokens`, when the context is full, or at a token of `stop_ids`, which is not yielded.
    Raises UserError when the prompt is empty or leaves no room in the context.
    """
    room = remaining_context(model, prompt_ids)
    length = min(max_tokens, room)
    generator = sampling.generator()
    ids = list(prompt_ids)
    cache = model.new_cache(1, len(ids) + length)
    new = ids
    for _ in range(length):
        logits = next_token_logits(model, [new], cache)
        token = sample_token(logits[0], sampling, ids, generator)
        if token in stop_ids:
            return
        yield token
        ids.append(token)
        new = [token]


@torch.inference_mode()
def next_token_logits(
    model: Decoder, tokens: Sequence[Sequence[int]], cache: KVCache
) -> Float[Tensor, "B V"]:
    """Scores of what follows each row of `tokens`. Those of earlier positions would cost V numbers each."""
    device = next(model.parameters()).device
    hidden = model.hidden_states(torch.tensor(tokens, device=device), cache=cache)
    return model.head(hidden[:, -1])


def remaining_context(model: Decoder, prompt_ids: Sequence[int]) -> int:
    """How many tokens may follow the prompt. Raises UserError when there is none, or no room after it."""
    context_length = model.config.context_length
    if not prompt_ids:
        raise UserError("the prompt is empty, expected at least one token")
    room = context_length - len(prompt_ids)
    if room < 1:
        raise UserError(
            f"the prompt has {len(prompt_ids)} tokens, expected at most {context_length - 1}: "
            f"the model's context holds {context_length}",
            hint="shorten the prompt",
        )
    return room


def stream_text(
    model: Decoder,
    tokenizer: Tokenizer,
    text: str,
    *,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    max_tokens: int = 128,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text that continues `text`, in pieces of whole characters. Errors as for `generate`."""
    prompt_ids = encode_prompt(tokenizer, text)
    stream = StreamDetokenizer(tokenizer, prompt_ids, stop)
    for token in generate(
        model, prompt_ids, max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids
    ):
        if piece := stream.push(token):
            yield piece
        if stream.stopped:
            return
    if piece := stream.finish():
        yield piece


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text to be continued, with what the tokenizer's own rule puts before every text.

    No text at all begins where a training text would: at the token that begins or ends one. Raises
    UserError when the tokenizer has no such token.
    """
    ids = tokenizer.encode(text, add_special_tokens=True)
    if ids:
        return ids
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise UserError("the prompt is empty, expected some text to continue")
    return [start]
