"""Autoregressive generation with a key/value cache: the prompt in one forward pass, then one token at a time."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.sampling import SamplingParams, sample_token
from groundup.model import Decoder, KVCache
from groundup.model.embedding import check_architecture
from groundup.tokenizer import Tokenizer


def generate(
    model: Decoder,
    prompt_ids: Sequence[int] | Tensor,
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
) -> list[int]:
    """The tokens that follow `prompt_ids`, as one list; arguments and errors as for `stream_tokens`.

    >>> ids = generate(model, tokenizer.encode("Once upon a time"), max_tokens=50, sampling=SamplingParams(top_p=0.9))
    >>> tokenizer.decode(ids)
    """
    return list(stream_tokens(model, prompt_ids, max_tokens=max_tokens, sampling=sampling, stop_ids=stop_ids))


def stream_tokens(
    model: Decoder,
    prompt_ids: Sequence[int] | Tensor,
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yield the tokens that follow `prompt_ids`, each as soon as it is sampled.

    Ends after `max_tokens`, when the context is full, or at a token of `stop_ids`, which is not yielded.
    Raises UserError when the prompt is empty or fills the context.
    """
    prompt_ids = prompt_ids.tolist() if isinstance(prompt_ids, Tensor) else prompt_ids
    length = min(max_tokens, remaining_context(model, prompt_ids))
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


def generate_reference(
    model: Decoder,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: SamplingParams,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """`stream_tokens` without a cache, by a forward pass over the whole text for every token: the oracle of faster ways."""
    device = next(model.parameters()).device
    generator = sampling.generator()
    ids = list(prompt_ids)
    for _ in range(max_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([ids], device=device)).logits[0, -1]
        token = sample_token(logits, sampling, ids, generator)
        if token in stop_ids:
            return
        yield token
        ids.append(token)


@torch.inference_mode()
def next_token_logits(model: Decoder, tokens: Sequence[Sequence[int]], cache: KVCache) -> Float[Tensor, "B V"]:
    """Logits of the token after each row of `tokens`; those of earlier positions are not computed."""
    device = next(model.parameters()).device
    hidden = model.hidden_states(torch.tensor(tokens, device=device), cache=cache)
    return model.head(hidden[:, -1])


def remaining_context(model: Decoder, prompt_ids: Sequence[int]) -> int:
    """Number of tokens that fit after the prompt. Raises UserError when the prompt is empty or fills the context."""
    if isinstance(prompt_ids, str):
        raise UserError("prompt_ids is a str, expected token ids", hint="generate_text takes text")
    check_architecture(model.config, "decoder")
    context_length = model.config.context_length
    if len(prompt_ids) == 0:
        raise UserError("the prompt is empty, expected at least one token")
    remaining = context_length - len(prompt_ids)
    if remaining < 1:
        raise UserError(
            f"the prompt has {len(prompt_ids)} tokens, expected at most {context_length - 1}: "
            f"the model's context_length is {context_length}",
            hint="shorten the prompt",
        )
    return remaining


def generate_text(model: Decoder, tokenizer: Tokenizer, text: str, **options: Any) -> str:
    """The text that follows `text`; options (sampling, max_tokens, stop) and errors as for `stream_text`.

    >>> generate_text(model, tokenizer, "Once upon a time", max_tokens=50)
    """
    for name in options.keys() & SamplingParams.__dataclass_fields__.keys():
        raise UserError(f"unknown option {name}", hint=f"sampling=SamplingParams({name}={options[name]!r})")
    return "".join(stream_text(model, tokenizer, text, **options))


def stream_text(
    model: Decoder,
    tokenizer: Tokenizer,
    text: str,
    *,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    max_tokens: int = 128,
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text that follows `text` in chunks of whole characters, up to the first of the `stop` strings.

    Raises UserError as `stream_tokens` does.
    """
    prompt_ids = encode_prompt(tokenizer, text)
    detokenizer = StreamDetokenizer(tokenizer, prompt_ids, stop)
    for token in stream_tokens(
        model, prompt_ids, max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids
    ):
        if chunk := detokenizer.push(token):
            yield chunk
        if detokenizer.stopped:
            return
    if chunk := detokenizer.finish():
        yield chunk


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text to continue, with the special tokens that the tokenizer adds to every text.

    An empty text becomes the bos token (else the eos token), as at the start of a training document.
    Raises UserError when the tokenizer has neither.
    """
    ids = tokenizer.encode(text, add_special_tokens=True)
    if ids:
        return ids
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise UserError("the prompt is empty, expected some text to continue")
    return [start]
