"""The slow obvious loop: the whole text through the model again for every token. All that is faster must equal it."""

from collections.abc import Collection, Iterator, Sequence

import torch

from groundup.generate.sampling import SamplingParams, sample_token
from groundup.model import Decoder


def generate_reference(
    model: Decoder,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: SamplingParams,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Tokens that continue `prompt_ids`, without a cache; a stop token ends it and is not yielded."""
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
