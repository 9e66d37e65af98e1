"""Beam search: the most likely text rather than a sampled one, as translations and summaries are written (Graves 2012;
length penalty: Wu et al. 2016, section 7).

The `num_beams` most likely beginnings are continued together. A finished text scores the sum of its log-probabilities over
its length to the power of the length penalty, since longer texts are always less likely.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import (
    GenerativeModel,
    continued_ids,
    encode_prompt,
    next_token_logits,
    remaining_context,
    require_generative,
    start_decoding,
)
from groundup.generate.sampling import InvalidLogitsError
from groundup.tokenizer import Tokenizer

MAX_BEAMS = 64
"""More cost memory and give worse texts (Stahlberg and Byrne 2019)."""

PROMPT_CHUNK = 256
"""Tokens of a prompt that are read at a time."""


class Beam(NamedTuple):
    """A finished text: its tokens without the stop token, and the log-probability over the length penalty."""

    tokens: list[int]
    score: float


def beam_search(model: GenerativeModel, prompt_ids: Sequence[int], **options: Any) -> list[int]:
    """The tokens of the first of `best_beams`; options and errors as there."""
    return best_beams(model, prompt_ids, **options)[0].tokens


def best_beams(model: GenerativeModel, prompt_ids: Sequence[int], **options: Any) -> list[Beam]:
    """Up to `num_beams` of the best texts found, the best first: that follow `prompt_ids`, or that an encoder-decoder makes of
    it.

        best = best_beams(model, encode_prompt(model, tokenizer, "Save changes"), stop_ids=tokenizer.stop_ids)[0]

    Options and errors as for `search_steps`.
    """
    return list(search_steps(model, prompt_ids, **options))[-1]


@torch.inference_mode()
def search_steps(
    model: GenerativeModel,
    prompt_ids: Sequence[int],
    *,
    num_beams: int = 4,
    max_tokens: int = 128,
    length_penalty: float = 0.6,
    no_repeat_ngram: int = 4,
    stop_ids: Collection[int] = (),
    decoder_prefix: Sequence[int] | None = None,
) -> Iterator[list[Beam]]:
    """The best finished texts after each step of the search, at last those of `best_beams`: other work may be done between.
    The prompt is read in steps, too.

    Args:
        num_beams: texts that are continued at a time; 1: greedy decoding.
        length_penalty: the higher, the longer the text; 0.6 as in T5 (Raffel et al. 2020, section 3.7.3).
        no_repeat_ngram: so many tokens in a row occur once at most, prompt of a decoder included (Paulus et al. 2017,
            section 2.5); 0: no limit.
        decoder_prefix: of an encoder-decoder, see `Request`.

    Raises UserError when the prompt is empty or fills the context.
    """
    if not 1 <= num_beams <= MAX_BEAMS:
        raise UserError(f"num_beams = {num_beams}, expected 1 to {MAX_BEAMS}")
    length = min(max_tokens, remaining_context(model, prompt_ids, decoder_prefix))
    cache, new = start_decoding(model, prompt_ids, length, decoder_prefix)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.int64)
    beams, scores = [[]], torch.zeros(1)
    finished: list[Beam] = []
    read = (len(new) - 1) // PROMPT_CHUNK * PROMPT_CHUNK
    for begin in range(0, read, PROMPT_CHUNK):
        next_token_logits(model, [new[begin : begin + PROMPT_CHUNK]], cache)
        yield []
    rows: list[Sequence[int]] = [new[read:]]
    for step in range(1, length + 1):
        logprobs = next_token_logits(model, rows, cache).float().cpu().log_softmax(dim=-1)
        if logprobs.isnan().any():
            raise InvalidLogitsError(
                "the model's logits are not finite numbers", hint="its weights are damaged, or its training diverged"
            )
        for beam, text in enumerate(beams if no_repeat_ngram else ()):
            logprobs[beam, repeating_tokens([*new, *text], no_repeat_ngram)] = -torch.inf
        totals = scores[:, None] + logprobs
        # Enough that `num_beams` are left if every beam could also stop.
        best = totals.flatten().topk(min((1 + max(1, len(stops))) * num_beams, totals.numel()))
        parents, tokens = best.indices // totals.shape[1], best.indices % totals.shape[1]
        ends = torch.isin(tokens, stops)
        for rank in range(min(num_beams, len(tokens))):
            if ends[rank] or step == length:
                text = beams[int(parents[rank])] + ([] if ends[rank] else [int(tokens[rank])])
                finished.append(Beam(text, float(best.values[rank]) / step**length_penalty))
        finished = sorted(finished, key=lambda each: -each.score)[:num_beams]
        yield finished
        going = (~ends).nonzero()[:num_beams, 0]
        if step == length or not len(going):
            break
        scores, parents, tokens = best.values[going], parents[going], tokens[going]
        if len(finished) == num_beams and float(scores[0]) / step**length_penalty <= finished[-1].score:
            break
        beams = [[*beams[parent], token] for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
        rows = [[token] for token in tokens.tolist()]
        cache.select_rows(parents.to(cache.keys.device))


def beam_search_text(model: nn.Module, tokenizer: Tokenizer, text: str, **options: Any) -> str:
    """The text that an encoder-decoder makes of `text`, or that follows it; options and errors as for `best_beams`.

    >>> beam_search_text(model, tokenizer, "Save changes")
    """
    return best_beam_texts(model, tokenizer, text, **options)[0][0]


def best_beam_texts(model: nn.Module, tokenizer: Tokenizer, text: str, **options: Any) -> list[tuple[str, float]]:
    """The texts of `best_beams` with their scores."""
    model = require_generative(model)
    prompt_ids = encode_prompt(model, tokenizer, text)
    context = continued_ids(model, prompt_ids)
    found = best_beams(model, prompt_ids, stop_ids=tokenizer.stop_ids, **options)
    return [(StreamDetokenizer(tokenizer, context).decode_all(beam.tokens), beam.score) for beam in found]


def repeating_tokens(text: Sequence[int], size: int) -> list[int]:
    """The tokens that would repeat `size` tokens of `text` in a row.

    >>> repeating_tokens([5, 6, 7, 5, 6], 3)
    [7]
    """
    last = len(text) - size + 1
    return [text[place + size - 1] for place in range(last) if text[place : place + size - 1] == text[last:]]
