"""Autoregressive generation with a key/value cache: the prompt in one forward pass, then one token at a time.

A decoder continues its prompt. An encoder-decoder reads it with the encoder, and the decoder writes from its start token.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.freed_memory import release_freed_memory
from groundup.generate.batch_invariance import batch_invariance
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.native.decode_step import step_in_c
from groundup.generate.sampling import SamplingParams
from groundup.generate.sequence_sampler import SequenceSampler
from groundup.model import Decoder, Encoder, EncoderDecoder, KVCache, StaticKVCache
from groundup.model.attention import CrossKeyValues
from groundup.model.encoder_decoder import CrossAttentionCache
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

GenerativeModel = Decoder | EncoderDecoder
PROMPT_ROWS = 256
"""Tokens of a prompt in one step in C."""
LONG_PROMPT = 256
"""Tokens from which on what a prompt needed is given back to the system: 30 MB for 512 tokens of a model of 135M weights."""


def generate(
    model: GenerativeModel,
    prompt_ids: Sequence[int] | Tensor,
    *,
    max_tokens: int = 128,
    sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
    stop_ids: Collection[int] = (),
) -> list[int]:
    """The tokens that follow `prompt_ids`, as one list; arguments and errors as for `stream_tokens`.

    An encoder-decoder reads `prompt_ids` as its source text, which should end with the end-of-text token (`encode_prompt`).

    >>> ids = generate(model, tokenizer.encode("Once upon a time"), max_tokens=50, sampling=SamplingParams(top_p=0.9))
    >>> tokenizer.decode(ids)
    """
    return list(stream_tokens(model, prompt_ids, max_tokens=max_tokens, sampling=sampling, stop_ids=stop_ids))


def stream_tokens(
    model: GenerativeModel,
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
    sampler = SequenceSampler(sampling, continued_ids(model, prompt_ids), stop_ids)
    cache, new = start_decoding(model, prompt_ids, length)
    for _ in range(length):
        token = sampler.next(next_token_logits(model, [new], cache)[0])
        if token in stop_ids:
            return
        yield token
        if sampler.complete:
            return
        new = [token]


def generate_reference(
    model: GenerativeModel,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: SamplingParams,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """`stream_tokens` without a cache, by a forward pass over the whole text for every token: the oracle of faster ways."""
    device = next(model.parameters()).device
    prompt = continued_ids(model, prompt_ids)
    sampler = SequenceSampler(sampling, prompt, stop_ids)
    for _ in range(max_tokens):
        with torch.inference_mode(), batch_invariance(model):
            if isinstance(model, EncoderDecoder):
                read = torch.tensor([[*model.config.decoder_prefix, *sampler.output_ids]], device=device)
                outputs = model(torch.tensor([prompt_ids], device=device), decoder_tokens=read)
            else:
                outputs = model(torch.tensor([[*prompt, *sampler.output_ids]], device=device))
        token = sampler.next(outputs.logits[0, -1])
        if token in stop_ids:
            return
        yield token
        if sampler.complete:
            return


@torch.inference_mode()
def start_decoding(
    model: GenerativeModel, prompt_ids: Sequence[int], max_tokens: int, prefix: Sequence[int] | None = None
) -> tuple[StaticKVCache, list[int]]:
    """A cache for the prompt and `max_tokens` more, and the tokens that are decoded first: of an encoder-decoder, which
    encodes the prompt here, `prefix` or those of its configuration."""
    if isinstance(model, EncoderDecoder):
        source = torch.tensor([prompt_ids], device=next(model.parameters()).device)
        start = decoder_ids(model, prompt_ids, prefix)
        with batch_invariance(model):
            return model.new_cache(source, max_tokens + len(start) - 1), start
    return model.new_cache(1, len(prompt_ids) + max_tokens), list(prompt_ids)


def decoder_ids(model: nn.Module, prompt_ids: Sequence[int], prefix: Sequence[int] | None = None) -> list[int]:
    """The tokens that the decoder reads first: the prompt; of an encoder-decoder, `prefix` or those of its configuration."""
    if not isinstance(model, EncoderDecoder):
        return list(prompt_ids)
    return list(model.config.decoder_prefix if prefix is None else prefix)


@torch.inference_mode()
def cross_key_values(model: nn.Module, prompt_ids: Sequence[int]) -> list[CrossKeyValues]:
    """Of an encoder-decoder: the cross-attention's keys and values for a source text; none of a decoder."""
    if not isinstance(model, EncoderDecoder):
        return []
    source = torch.tensor([list(prompt_ids)], device=next(model.parameters()).device)
    with batch_invariance(model):
        return model.new_cache(source, 1).layer_cross_key_values


def continued_ids(model: nn.Module, prompt_ids: Sequence[int]) -> Sequence[int]:
    """The tokens that the output continues: the prompt of a decoder; none of an encoder-decoder."""
    return () if isinstance(model, EncoderDecoder) else prompt_ids


@torch.inference_mode()
def next_token_logits(
    model: GenerativeModel, tokens: Sequence[Sequence[int]], cache: KVCache, *, mixes_adapters: bool = False
) -> Float[Tensor, "B V"]:
    """Logits of the token after each row of `tokens`.

    mixes_adapters: other passes have rows of adapters and run module by module; that of a deterministic model then does too.
    """
    ids = torch.tensor(tokens, device=next(model.parameters()).device)
    with batch_invariance(model) as invariant:
        if isinstance(model, EncoderDecoder):
            return model.decode(ids, cast(CrossAttentionCache, cache))[:, -1]
        if invariant and not mixes_adapters and (logits := all_steps_in_c(model, ids, cache)) is not None:
            return logits
        if not invariant and (logits := step_in_c(model, ids, cache)) is not None:
            return logits
        logits = model.head(model.hidden_states(ids, cache=cache)[:, -1])  # not the logits of earlier positions
    if ids.numel() >= LONG_PROMPT:
        release_freed_memory()
    return logits


def all_steps_in_c(model: nn.Module, tokens: Int[Tensor, "B T"], cache: KVCache) -> Float[Tensor, "B V"] | None:
    """`step_in_c`, whose rows are independent of each other, of any number of tokens: prompts are read as answers are written."""
    logits = None
    for part in tokens.split(PROMPT_ROWS, dim=1):
        if (logits := step_in_c(model, part, cache, max_rows=tokens.numel())) is None:
            return None
    return logits


def require_generative(model: nn.Module) -> GenerativeModel:
    """The model. Raises UserError for an encoder."""
    if isinstance(model, Encoder):
        raise UserError(
            "the model is an encoder, which embeds texts and does not write them", hint="groundup embed MODEL TEXT"
        )
    return cast(GenerativeModel, model)


def remaining_context(model: nn.Module, prompt_ids: Sequence[int], prefix: Sequence[int] | None = None) -> int:
    """Number of new tokens that fit. Raises UserError when the prompt is empty or fills the context, and for an encoder."""
    if isinstance(prompt_ids, str):
        raise UserError("prompt_ids is a str, expected token ids", hint="generate_text takes text")
    model = require_generative(model)
    context_length = model.config.cached_context_length
    if len(prompt_ids) == 0:
        raise UserError("the prompt is empty, expected at least one token")
    if isinstance(model, EncoderDecoder) and len(prompt_ids) <= context_length:
        return context_length + 1 - len(decoder_ids(model, prompt_ids, prefix))  # source and target have a context each
    remaining = context_length - len(prompt_ids)
    reason = "" if context_length == model.config.context_length else "before dynamic RoPE scaling "
    if remaining < 1:
        raise UserError(
            f"the prompt has {len(prompt_ids)} tokens, expected at most {max_prompt_tokens(model.config)}: "
            f"the model's context_length {reason}is {context_length}",
            hint="shorten the prompt",
        )
    return remaining


def max_prompt_tokens(config: ModelConfig) -> int:
    """Tokens of the longest prompt: a decoder needs room for one more in its context."""
    return config.cached_context_length - (config.architecture == "decoder")


def generate_text(model: nn.Module, tokenizer: Tokenizer, text: str, **options: Any) -> str:
    """The text that follows `text`, or that an encoder-decoder makes of it, such as its translation.

    Options (sampling, max_tokens, stop) and errors as for `stream_text`.

    >>> generate_text(model, tokenizer, "Once upon a time", max_tokens=50)
    """
    for name in options.keys() & SamplingParams.__dataclass_fields__.keys():
        raise UserError(f"unknown option {name}", hint=f"sampling=SamplingParams({name}={options[name]!r})")
    return "".join(stream_text(model, tokenizer, text, **options))


def stream_text(
    model: nn.Module,
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
    model = require_generative(model)
    prompt_ids = encode_prompt(model, tokenizer, text)
    detokenizer = StreamDetokenizer(tokenizer, continued_ids(model, prompt_ids), stop)
    for token in stream_tokens(
        model, prompt_ids, max_tokens=max_tokens, sampling=sampling, stop_ids=tokenizer.stop_ids
    ):
        if chunk := detokenizer.push(token):
            yield chunk
        if detokenizer.stopped:
            return
    if chunk := detokenizer.finish():
        yield chunk


def encode_prompt(model: nn.Module, tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text for `model`, with the special tokens that the tokenizer adds to every text.

    The source text of an encoder-decoder ends with the eos token, as in training. An empty text becomes the bos token (else
    the eos token), as at the start of a training document. Raises UserError when the tokenizer has neither.
    """
    ids = tokenizer.encode(text, add_special_tokens=True)
    if isinstance(model, EncoderDecoder) and tokenizer.eos_id is not None and ids[-1:] != [tokenizer.eos_id]:
        ids.append(tokenizer.eos_id)
    if ids:
        return ids
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise UserError("the prompt is empty, expected some text to continue")
    return [start]
