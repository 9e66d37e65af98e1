"""Sampling: penalties and biases, temperature, top-k, top-p, min-p and typical, in this order, then the random draw.

Each step is a pure function of logits (... V) or (V); filters set excluded tokens to -inf. The order is transformers'.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from groundup.artifacts.errors import UserError

if TYPE_CHECKING:
    from groundup.generate.constrained_decoding import Grammar

LARGEST = torch.finfo(torch.float32).max


class InvalidLogitsError(UserError):
    """Logits of which no token can be chosen: not a number, or infinite."""


class NoTokenFitsError(InvalidLogitsError):
    """A grammar that cannot go on, or rules that ban every token: a fault of the request, not of the model."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is sampled.

    Attributes:
        temperature: divides the logits; 0: greedy decoding.
        top_k: sample from the k most likely tokens; 0: no limit.
        top_p: sample from the smallest set of most likely tokens with this probability mass; 1: no limit.
        min_p: exclude tokens below min_p times the highest probability; 0: no limit.
        typical_p: sample from the tokens of this probability mass whose surprise is nearest to the expected one; 1: no limit.
        repetition_penalty: above 1: lower the logits of tokens in the prompt and the output so far; 1: off.
        presence_penalty: subtracted from the logits of tokens in the output so far.
        frequency_penalty: subtracted once for each time that a token is in the output so far.
        logit_bias: added to the logits of tokens, by id; -100 or less excludes a token in practice.
        banned_sequences: token sequences that the output never contains, transformers' `bad_words_ids`.
        min_tokens: no stop token before the output has this many tokens.
        grammar: that of the whole output, from a `GrammarCompiler`; None: any text.
        seed: of the random generator; None: from the operating system.

    Raises UserError when a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_sequences: Sequence[Sequence[int]] = ()
    min_tokens: int = 0
    seed: int | None = None
    grammar: "Grammar | None" = None

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "a number of at least 0"),
            ("top_k", self.top_k >= 0, "a whole number of at least 0 (0: no limit)"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0 and up to 1 (1: no limit)"),
            ("min_p", 0 <= self.min_p <= 1, "a number from 0 to 1 (0: no limit)"),
            ("typical_p", 0 < self.typical_p <= 1, "a number above 0 and up to 1 (1: no limit)"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a number above 0 (1: off)"),
            ("presence_penalty", abs(self.presence_penalty) < float("inf"), "a number (0: off)"),
            ("frequency_penalty", abs(self.frequency_penalty) < float("inf"), "a number (0: off)"),
            ("logit_bias", all(abs(bias) < float("inf") for bias in self.logit_bias.values()), "numbers"),
            ("banned_sequences", all(len(tokens) for tokens in self.banned_sequences), "sequences that are not empty"),
            ("min_tokens", self.min_tokens >= 0, "a whole number of at least 0"),
            ("seed", self.seed is None or 0 <= self.seed < 2**64, "a whole number from 0 to 2^64 - 1"),
        ):
            if not valid:
                raise UserError(f"{name} = {getattr(self, name)}, expected {expected}")

    @property
    def greedy(self) -> bool:
        """Temperatures this near 0 are greedy too: dividing by them would overflow."""
        return self.temperature < 1e-5

    def numbered(self, number: int) -> "SamplingParams":
        """The parameters of sample `number` of several: a seed is counted up."""
        return self if self.seed is None else replace(self, seed=(self.seed + number) % 2**64)

    def generator(self) -> torch.Generator:
        """A new random generator, on the CPU, so that a seed gives the same tokens on every device."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


GREEDY = SamplingParams(temperature=0)


def apply_logit_bias(logits: Float[Tensor, "V"], bias: Mapping[int, float]) -> Float[Tensor, "V"]:
    """Add `bias` to the logits of its token ids."""
    if not bias:
        return logits
    ids = torch.tensor(list(bias), device=logits.device)
    return logits.index_add(0, ids, torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device))


def apply_repetition_penalty(
    logits: Float[Tensor, "V"], previous_ids: Sequence[int], penalty: float
) -> Float[Tensor, "V"]:
    """Divide positive logits of `previous_ids` by `penalty`, multiply negative ones (Keskar et al. 2019, section 4.1)."""
    if penalty == 1.0 or not previous_ids:
        return logits
    ids = torch.tensor(sorted(set(previous_ids)), device=logits.device)
    values = logits[ids]
    penalized = torch.where(values < 0, values * penalty, values / penalty)
    return logits.index_copy(0, ids, penalized.clamp(-LARGEST, LARGEST))  # a penalty near 0 would overflow


def apply_output_penalties(
    logits: Float[Tensor, "V"], output_ids: Sequence[int], presence: float, frequency: float
) -> Float[Tensor, "V"]:
    """Subtract `presence`, and `frequency` times the count, from the logits of the tokens of the output so far.

    The penalties of OpenAI's API: tokens of the prompt do not count.
    """
    if not output_ids or (presence == 0.0 and frequency == 0.0):
        return logits
    counts = Counter(output_ids)
    return apply_logit_bias(logits, {token: -presence - frequency * count for token, count in counts.items()})


def exclude_banned(
    logits: Float[Tensor, "V"], previous_ids: Sequence[int], banned: Sequence[Sequence[int]]
) -> Float[Tensor, "V"]:
    """Exclude the last token of each banned sequence whose other tokens the text ends with."""
    excluded = [
        tokens[-1]
        for tokens in banned
        if len(tokens) == 1 or list(previous_ids[len(previous_ids) - len(tokens) + 1 :]) == list(tokens[:-1])
    ]
    return exclude_tokens(logits, excluded)


def exclude_tokens(logits: Float[Tensor, "V"], ids: Collection[int]) -> Float[Tensor, "V"]:
    """Exclude the tokens of `ids`; ids outside of the vocabulary are ignored."""
    known = [token for token in ids if 0 <= token < logits.shape[-1]]
    if not known:
        return logits
    return logits.index_fill(0, torch.tensor(known, device=logits.device), -torch.inf)


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


def apply_typical_p(logits: Float[Tensor, "... V"], p: float) -> Float[Tensor, "... V"]:
    """Exclude all but the tokens of probability p whose surprise is nearest to the entropy (Meister et al. 2022)."""
    if p == 1.0:
        return logits
    logprobs = logits.log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).nansum(dim=-1, keepdim=True)  # 0 * -inf of excluded tokens
    distance, order = (-logprobs - entropy).abs().sort(dim=-1)
    mass = logits.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
    kept = (mass < p).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)  # index of the last token kept
    drop = distance > distance.gather(-1, kept)
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def adjust_logits(
    logits: Float[Tensor, "V"],
    sampling: SamplingParams,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    stop_ids: Collection[int] = (),
) -> Float[Tensor, "V"]:
    """What changes greedy decoding too: bias, penalties, banned sequences and the stop tokens before `min_tokens`."""
    logits = apply_logit_bias(logits, sampling.logit_bias)
    if sampling.repetition_penalty != 1.0:
        logits = apply_repetition_penalty(logits, (*prompt_ids, *output_ids), sampling.repetition_penalty)
    logits = apply_output_penalties(logits, output_ids, sampling.presence_penalty, sampling.frequency_penalty)
    if sampling.banned_sequences:
        logits = exclude_banned(logits, (*prompt_ids, *output_ids), sampling.banned_sequences)
    return exclude_tokens(logits, stop_ids) if len(output_ids) < sampling.min_tokens else logits


def filter_logits(logits: Float[Tensor, "V"], sampling: SamplingParams) -> Float[Tensor, "V"]:
    """Temperature and filters, for a temperature above 0; tokens are sampled from the softmax of the result."""
    logits = (logits / sampling.temperature).clamp(max=LARGEST)
    logits = apply_top_k(logits, sampling.top_k)
    logits = apply_top_p(logits, sampling.top_p)
    logits = apply_min_p(logits, sampling.min_p)
    return apply_typical_p(logits, sampling.typical_p)


def sample_token(
    logits: Float[Tensor, "V"],
    sampling: SamplingParams,
    generator: torch.Generator,
    *,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    stop_ids: Collection[int] = (),
    allowed: Bool[Tensor, "V"] | None = None,
) -> int:
    """The next token's id. `prompt_ids`, `output_ids`: the text so far; `stop_ids`: excluded before `min_tokens`;
    `allowed`: the tokens that a grammar allows.

    Raises InvalidLogitsError when the logits are not finite, NoTokenFitsError when every token is excluded.
    """
    logits = logits.detach().to("cpu", torch.float32)
    if not logits.max().isfinite():
        raise InvalidLogitsError(
            "the model's logits are not finite numbers", hint="its weights are damaged, or its training diverged"
        )
    logits = adjust_logits(logits, sampling, prompt_ids, output_ids, stop_ids)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if logits.max() == -torch.inf:
        raise NoTokenFitsError(
            "every token is banned", hint="fewer banned_sequences, a smaller min_tokens, or another grammar"
        )
    if sampling.greedy:
        return int(logits.argmax())
    probabilities = filter_logits(logits, sampling).softmax(dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def log_probabilities(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    """Log-softmax of the logits in nats, before temperature and filters; on the CPU in float32."""
    return logits.detach().to("cpu", torch.float32).log_softmax(dim=-1)


def top_logprobs(logprobs: Float[Tensor, "V"], k: int) -> list[tuple[int, float]]:
    """The k most likely tokens with their log-probabilities, most likely first."""
    values, ids = logprobs.topk(min(k, logprobs.shape[-1]))
    return [(int(i), float(value)) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]
