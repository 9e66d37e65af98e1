"""From logits to one token: what may be drawn, how likely each is, and the draw.

Order as in the field: repetition penalty, temperature, top-k, top-p, min-p. Each is a pure function of
logits (... V); what may not be drawn becomes -inf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.artifacts.errors import UserError


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; below 1 favours the likely. 0 takes the likeliest token, always.
        top_k: draw from the k likeliest tokens only; 0: no limit.
        top_p: draw from the likeliest tokens that hold this share of the probability; 1: no limit.
        min_p: drop tokens less likely than this share of the likeliest one's probability; 0: none.
        repetition_penalty: above 1 makes tokens less likely that the prompt or the answer holds already; 1:
            off.
        seed: the same seed draws the same tokens; None: different each time.

    Raises UserError when a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "a number of at least 0"),
            ("top_k", self.top_k >= 0, "a whole number of at least 0 (0: no limit)"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0 and up to 1 (1: no limit)"),
            ("min_p", 0 <= self.min_p <= 1, "a number from 0 to 1 (0: no limit)"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a number above 0 (1: off)"),
            ("seed", self.seed is None or 0 <= self.seed < 2**64, "a whole number from 0 to 2^64 - 1"),
        ):
            if not good:
                raise UserError(f"{name} = {getattr(self, name)}, expected {expected}")

    @property
    def greedy(self) -> bool:
        """Temperatures this near 0 could only draw the likeliest token, and would overflow on the way there."""
        return self.temperature < 1e-5

    def generator(self) -> torch.Generator:
        """The source of this request's random numbers, on the CPU, so that a seed draws alike on every device."""
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
    """Shrink the logits of `seen` tokens: positive ones are divided, negative ones multiplied (Keskar et
    al. 2019, 4.1)."""
    if penalty == 1.0 or not previous_ids:
        return logits
    ids = torch.tensor(sorted(set(previous_ids)), device=logits.device)
    values = logits[ids]
    return logits.index_copy(0, ids, torch.where(values < 0, values * penalty, values / penalty))


def apply_top_k(logits: Float[Tensor, "... V"], k: int) -> Float[Tensor, "... V"]:
    """Keep the k largest (and ties with the smallest of them); 0 keeps all (Fan et al. 2018)."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def apply_top_p(logits: Float[Tensor, "... V"], p: float) -> Float[Tensor, "... V"]:
    """Keep the smallest set of likeliest tokens that holds probability p: nucleus sampling (Holtzman et al.
    2020)."""
    if p == 1.0:
        return logits
    ascending, order = logits.sort(dim=-1)
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[..., -1] = False  # the likeliest always stays
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def apply_min_p(logits: Float[Tensor, "... V"], p: float) -> Float[Tensor, "... V"]:
    """Keep tokens at least p times as likely as the likeliest one (Nguyen et al. 2024)."""
    if p == 0.0:
        return logits
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


def filter_logits(
    logits: Float[Tensor, "V"], sampling: SamplingParams, previous_ids: Sequence[int]
) -> Float[Tensor, "V"]:
    """All of the above in their order, for a temperature above 0: the softmax of the result is what is
    drawn from."""
    logits = apply_repetition_penalty(logits, previous_ids, sampling.repetition_penalty)
    logits = logits / sampling.temperature
    logits = apply_top_k(logits, sampling.top_k)
    logits = apply_top_p(logits, sampling.top_p)
    return apply_min_p(logits, sampling.min_p)


def sample_token(
    logits: Float[Tensor, "V"],
    sampling: SamplingParams,
    previous_ids: Sequence[int],
    generator: torch.Generator,
) -> int:
    """The next token's id. `seen` are the tokens of the prompt and of the answer so far."""
    logits = logits.detach().to("cpu", torch.float32)
    if sampling.greedy:
        return int(apply_repetition_penalty(logits, previous_ids, sampling.repetition_penalty).argmax())
    probabilities = filter_logits(logits, sampling, previous_ids).softmax(dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def log_probabilities(logits: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """What the model itself thinks, before temperature and limits, in nats."""
    return logits.detach().to("cpu", torch.float32).log_softmax(dim=-1)


def top_logprobs(logprobs: Float[Tensor, "V"], k: int) -> list[tuple[int, float]]:
    """The k likeliest tokens and their log-probabilities, best first."""
    values, ids = logprobs.topk(min(k, logprobs.shape[-1]))
    return [(int(i), float(value)) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]
