"""Generation without a cache: a forward pass over the whole text for every token. The oracle of the faster ways."""

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
    """Yield the tokens that follow `prompt_ids`; ends at a stop token, which is not yielded."""
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
