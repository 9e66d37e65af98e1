"""Sampling: repetition penalty, temperature, top-k, top-p and min-p, in this order, then the random draw.

Each filter is a pure function of logits (... V) that sets excluded tokens to -inf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is sampled.

    Attributes:
        temperature: divides the logits; 0: greedy decoding.
        top_k: sample from the k most likely tokens; 0: no limit.
        top_p: sample from the smallest set of most likely tokens with this probability mass; 1: no limit.
        min_p: exclude tokens below min_p times the highest probability; 0: no limit.
        repetition_penalty: above 1: lower the logits of tokens in the prompt and the output so far; 1: off.
        seed: of the random generator; None: from the operating system.

    Raises UserError when a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "a number of at least 0"),
            ("top_k", self.top_k >= 0, "a whole number of at least 0 (0: no limit)"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0 and up to 1 (1: no limit)"),
            ("min_p", 0 <= self.min_p <= 1, "a number from 0 to 1 (0: no limit)"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a number above 0 (1: off)"),
            ("seed", self.seed is None or 0 <= self.seed < 2**64, "a whole number from 0 to 2^64 - 1"),
        ):
            if not valid:
                raise UserError(f"{name} = {getattr(self, name)}, expected {expected}")

    @property
    def greedy(self) -> bool:
        """Temperatures this near 0 are greedy too: dividing by them would overflow."""
        return self.temperature < 1e-5

    def generator(self) -> torch.Generator:
        """A new random generator, on the CPU, so that a seed gives the same tokens on every device."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


GREEDY = SamplingParams(temperature=0)


def apply_repetition_penalty(
    logits: Float[Tensor, "V"], previous_ids: Sequence[int], penalty: float
) -> Float[Tensor, "V"]:
    """Divide positive logits of `previous_ids` by `penalty`, multiply negative ones (Keskar et al. 2019, section 4.1)."""
    if penalty == 1.0 or not previous_ids:
        return logits
    ids = torch.tensor(sorted(set(previous_ids)), device=logits.device)
    values = logits[ids]
    return logits.index_copy(0, ids, torch.where(values < 0, values * penalty, values / penalty))


def apply_top_k(logits: Float[Tensor, "... V"], k: int) -> Float[Tensor, "... V"]:
    """Exclude all but the k largest logits and their ties; 0: no limit (Fan et al. 2018)."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def apply_top_p(logits: Float[Tensor, "... V"], p: float) -> Float[Tensor, "... V"]:
    """Exclude all but the smallest set of most likely tokens with probability p: nucleus sampling (Holtzman et al. 2020)."""
    if p == 1.0:
        return logits
    ascending, order = logits.sort(dim=-1)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -1] = False  # never the most likely token
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def apply_min_p(logits: Float[Tensor, "... V"], p: float) -> Float[Tensor, "... V"]:
    """Exclude tokens less than p times as likely as the most likely one (Nguyen et al. 2024)."""
    if p == 0.0:
        return logits
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


def filter_logits(
    logits: Float[Tensor, "V"], sampling: SamplingParams, previous_ids: Sequence[int]
) -> Float[Tensor, "V"]:
    """All filters in their order, for a temperature above 0; tokens are sampled from the softmax of the result."""
    logits = apply_repetition_penalty(logits, previous_ids, sampling.repetition_penalty)
    logits = logits / sampling.temperature
    logits = apply_top_k(logits, sampling.top_k)
    logits = apply_top_p(logits, sampling.top_p)
    return apply_min_p(logits, sampling.min_p)


def sample_token(
    logits: Float[Tensor, "V"], sampling: SamplingParams, previous_ids: Sequence[int], generator: torch.Generator
) -> int:
    """The next token's id; `previous_ids` are the tokens of the prompt and of the output so far."""
    logits = logits.detach().to("cpu", torch.float32)
    if sampling.greedy:
        return int(apply_repetition_penalty(logits, previous_ids, sampling.repetition_penalty).argmax())
    probabilities = filter_logits(logits, sampling, previous_ids).softmax(dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def log_probabilities(logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """Log-softmax of the logits in nats, before temperature and filters; on the CPU in float32."""
    return logits.detach().to("cpu", torch.float32).log_softmax(dim=-1)


def top_logprobs(logprobs: Float[Tensor, "V"], k: int) -> list[tuple[int, float]]:
    """The k most likely tokens with their log-probabilities, most likely first."""
    values, ids = logprobs.topk(min(k, logprobs.shape[-1]))
    return [(int(i), float(value)) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]
