"""What the engine takes and gives: requests, their outputs step by step, and the models that they may name."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from groundup.generate.sampling import InvalidLogitsError, SamplingParams


@dataclass(eq=False)
class Request:
    """One prompt with its limits and sampling parameters.

    Attributes:
        logprobs: also return the log-probability of each token and of this many most likely tokens; None: no.
        adapter: its name, of those of the engine; None: the model without one.
        group: requests of one origin, which take turns with others, and have three quarters of the rows when others wait;
            None: by itself.
        decoder_prefix: of an encoder-decoder, the first tokens of its text, such as a language (`language_prefix`); None:
            those of its configuration.
        tokens: generated so far.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_ids: Collection[int] = ()
    logprobs: int | None = None
    adapter: str | None = None
    group: Hashable | None = None
    decoder_prefix: Sequence[int] | None = None
    tokens: list[int] = field(default_factory=list, init=False)


@dataclass(frozen=True)
class StepOutput:
    """Result of a step for one request: a token, a finish reason, or both.

    `finish_reason` is "stop" at a stop token (which is not returned) or when the text of a grammar is complete, "length"
    when max_tokens or the context length is reached, "error" when no token could be chosen; `error` says why. `logprob` and
    `top_logprobs` are in nats, before temperature and filters, if `Request.logprobs` is set.
    """

    request: Request
    token: int | None
    finish_reason: Literal["stop", "length", "error"] | None
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] = field(default_factory=list)
    error: InvalidLogitsError | None = None


@runtime_checkable
class ModelVariants(Protocol):
    """A model and the same with adapters, by name; see `groundup.interop.adapters.AdapterModels`."""

    def __getitem__(self, name: str | None) -> nn.Module: ...

    def __contains__(self, name: str | None) -> bool: ...

    def groups(self, names: Sequence[str | None]) -> Iterator[tuple[list[int], nn.Module]]:
        """The rows of each forward pass, with the model for it, which holds until the next group is asked for."""
        ...
