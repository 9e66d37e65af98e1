"""One pass over several texts with a number of new tokens each (ragged batch): tokens of answers, guesses, parts of prompts.

Where the step in C knows the model, all of them share one reading of the weights; elsewhere those of equal length do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.generate.batch_invariance import batch_invariance
from groundup.generate.generation import PROMPT_ROWS, GenerativeModel
from groundup.generate.native.decode_step import MAX_ROWS, ragged_step_in_c
from groundup.generate.paged_kv_cache import CachedSequence, PagedKVCache
from groundup.generate.request import ModelVariants
from groundup.model import Decoder, EncoderDecoder
from groundup.model.encoder_decoder import CrossAttentionCache


@dataclass(frozen=True)
class NewTokens:
    """The next tokens of one text.

    Attributes:
        sequence: the text so far, with room for them in the cache.
        num_logits: of so many of the last tokens, the logits are wanted.
        adapter: of the model, by name.
    """

    sequence: CachedSequence
    tokens: Sequence[int]
    num_logits: int = 1
    adapter: str | None = None


@torch.inference_mode()
def ragged_logits(
    model: GenerativeModel, cache: PagedKVCache, parts: Sequence[NewTokens], variants: ModelVariants | None = None
) -> list[Float[Tensor, "T V"]]:
    """Logits after the last `num_logits` tokens of each part; keys and values of all tokens are added to the cache."""
    adapters = [part.adapter for part in parts]
    if variants is None:
        return _with_one_model(model, cache, parts, in_c=True)
    # rows of adapters run module by module: all rows of a deterministic model then do
    in_c = not getattr(model, "batch_invariant", False)
    if not any(adapters):
        return _with_one_model(model, cache, parts, in_c=in_c)
    found: dict[int, Tensor] = {}
    for rows, variant in variants.groups(adapters):
        some = [parts[row] for row in rows]
        found |= zip(rows, _with_one_model(cast(GenerativeModel, variant), cache, some, in_c=in_c), strict=True)
    return [found[row] for row in range(len(parts))]


def _with_one_model(
    model: GenerativeModel, cache: PagedKVCache, parts: Sequence[NewTokens], *, in_c: bool
) -> list[Float[Tensor, "T V"]]:
    found: dict[int, Tensor] = {}
    with batch_invariance(model) as invariant:
        # many tokens are faster in PyTorch's products, in which a row's bits depend on its company
        max_rows = _num_tokens(parts) if invariant else MAX_ROWS
        passes: list[list[int]] = []
        for group in sorted(_by_shape(parts, range(len(parts))), key=lambda rows: _num_tokens(parts, rows)):
            if passes and _num_tokens(parts, [*passes[-1], *group]) <= max_rows:
                passes[-1] += group
            else:
                passes.append(group)
        for rows in passes:
            fits = in_c and _num_tokens(parts, rows) <= max_rows
            if isinstance(model, Decoder) and fits:
                logits = _in_c(model, cache, [parts[row] for row in rows])
                if logits is not None:
                    found |= zip(rows, logits, strict=True)
                    continue
            for group in _by_shape(parts, rows):
                found |= zip(group, _by_modules(model, cache, [parts[row] for row in group]), strict=True)
    return [found[row] for row in range(len(parts))]


def _in_c(model: Decoder, cache: PagedKVCache, parts: Sequence[NewTokens]) -> Sequence[Float[Tensor, "T V"]] | None:
    """The logits of each part; None where the C code does not know the model."""
    batch, counts = cache.batch([part.sequence for part in parts]), [part.num_logits for part in parts]
    logits = ragged_step_in_c(model, [part.tokens for part in parts], batch, counts, PROMPT_ROWS)
    return None if logits is None else logits.split(counts)


def _by_modules(model: GenerativeModel, cache: PagedKVCache, parts: Sequence[NewTokens]) -> Float[Tensor, "B T V"]:
    """The logits of parts of one shape."""
    batch, count = cache.batch([part.sequence for part in parts]), parts[0].num_logits
    ids = torch.tensor([list(part.tokens) for part in parts], device=cache.device)
    if isinstance(model, EncoderDecoder):
        return model.decode(ids, cast(CrossAttentionCache, batch))[:, -count:]
    return model.head(model.hidden_states(ids, cache=batch)[:, -count:])  # not those of earlier positions


def _by_shape(parts: Sequence[NewTokens], rows: Iterable[int]) -> list[list[int]]:
    """The rows with equal numbers of tokens and of logits."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        groups.setdefault((len(parts[row].tokens), parts[row].num_logits), []).append(row)
    return list(groups.values())


def _num_tokens(parts: Sequence[NewTokens], rows: Iterable[int] | None = None) -> int:
    return sum(len(parts[row].tokens) for row in (range(len(parts)) if rows is None else rows))
