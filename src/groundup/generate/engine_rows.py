"""What the engine keeps of a request: its tokens and limits, the prompt that is read, its keys and values."""

from dataclasses import dataclass

from groundup.generate.paged_kv_cache import CachedSequence
from groundup.generate.request import Request
from groundup.generate.speculative_decoding import OpenText


@dataclass(eq=False)
class EngineRow:
    """A request in the engine.

    Attributes:
        number: order of arrival.
        tokens: of the decoder: its prompt, and those generated so far.
        limit: generated tokens at most.
        sequence: its keys and values, while it decodes.
    """

    request: Request
    number: int
    tokens: list[int]
    limit: int
    text: OpenText
    sequence: CachedSequence | None = None

    @property
    def cached(self) -> CachedSequence:
        assert self.sequence is not None
        return self.sequence


@dataclass(eq=False)
class PromptPrefill:
    """A sequence whose tokens are being read, and the requests that continue it: samples of one prompt share it."""

    rows: list[EngineRow]
    sequence: CachedSequence

    planned: int = 0
    """Of its tokens, how many are read when this step ends."""

    @property
    def tokens(self) -> list[int]:
        return self.rows[0].tokens
