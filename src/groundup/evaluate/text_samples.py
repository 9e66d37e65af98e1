"""Sampled continuations of prompts, for reports."""

from collections.abc import Sequence

from groundup.generate import SamplingParams, generate_text
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

TOP_P = 0.95
"""Cuts the unreliable tail of the distribution (Holtzman et al. 2020), which derails a small model's sentences."""


def sample_continuations(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int
) -> list[dict[str, str]]:
    """[{"prompt": ..., "text": the continuation}]; prompt i is sampled with seed + i."""
    samples = []
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(temperature=temperature, top_p=TOP_P, seed=seed + index)
        text = generate_text(model, tokenizer, prompt, sampling=sampling, max_tokens=max_tokens)
        samples.append({"prompt": prompt, "text": text})
    return samples
