"""What a model says when it is left to go on."""

from collections.abc import Sequence

from groundup.generate import SamplingParams, stream_text
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

TOP_P = 0.95
"""Without it, one improbable token in a hundred derails a small model's sentence (Holtzman et al. 2020)."""


def sample_continuations(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> list[dict[str, str]]:
    """[{"prompt": ..., "text": what the model says after it}]; the same seed gives the same texts."""
    return [
        {
            "prompt": prompt,
            "text": "".join(
                stream_text(
                    model,
                    tokenizer,
                    prompt,
                    sampling=SamplingParams(temperature=temperature, top_p=TOP_P, seed=seed + number),
                    max_tokens=max_tokens,
                )
            ),
        }
        for number, prompt in enumerate(prompts)
    ]
