"""Incremental detokenization: text as tokens arrive, without incomplete characters, up to a stop string."""

from collections.abc import Collection, Iterable, Sequence

from groundup.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""Decoded text of bytes that are not (or not yet) valid UTF-8."""

MAX_INCOMPLETE_BYTES = 3
"""Bytes of an incomplete character at most. Byte-level decoders give one replacement character for all of them,
byte-fallback decoders (SentencePiece) one for each."""

CONTEXT_TOKENS = 8
"""Tokens decoded before the new ones, because decoders strip the leading space of the first token of a text."""

WINDOW_TOKENS = 32
"""Tokens decoded at a time at most, so that the cost per token does not grow with the length of the text."""


def decode_output(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of generated tokens, without special ones. Ids beyond the vocabulary, of a padded model, have none."""
    return tokenizer.decode([token for token in tokens if token < tokenizer.vocab_size], skip_special_tokens=True)


class StreamDetokenizer:
    """Tokens of one output to chunks of text, whose concatenation equals the decoded output.

    Text is buffered while its last character is incomplete, or while it may begin a stop string. Special tokens and ids
    outside of the vocabulary (of padded embeddings) have no text.

    Args:
        context: tokens of the prompt, which decide whether the output begins with a space.
        stop: strings that end the output; neither they nor later text is returned.
        visible: special tokens whose text is returned.

    Attributes:
        num_decoded: whole characters decoded so far, returned or not.
        stopped: a stop string was found.

    >>> detokenizer = StreamDetokenizer(tokenizer, prompt_ids, stop=["\n"])
    >>> text = "".join(detokenizer.push(token) for token in tokens) + detokenizer.finish()
    """

    def __init__(
        self, tokenizer: Tokenizer, context: Sequence[int] = (), stop: Sequence[str] = (), visible: Collection[int] = ()
    ):
        self._tokenizer, self._visible = tokenizer, visible
        self._window = [token for token in context[-CONTEXT_TOKENS:] if token < tokenizer.vocab_size]
        self._complete_text = self._decode_complete()
        self._stop = tuple(stop)
        self._pending = ""
        self.stopped = False
        self.num_decoded = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        if self.stopped or token >= self._tokenizer.vocab_size:
            return ""
        self._window.append(token)
        text = self._decode_complete()
        chunk = text[len(self._complete_text) :]
        self._complete_text = text
        self.num_decoded += len(chunk)
        if len(self._window) >= WINDOW_TOKENS:
            self._window = self._window[-CONTEXT_TOKENS:]
            self._complete_text = self._decode_complete()
        return self._truncate_at_stop(chunk)

    def decode_all(self, tokens: Iterable[int]) -> str:
        """The text of a whole output."""
        return "".join([self.push(token) for token in tokens]) + self.finish()

    def finish(self) -> str:
        """The buffered text at the end of the output; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        chunk = self._truncate_at_stop(self._decode()[len(self._complete_text) :])
        pending, self._pending = self._pending, ""
        return chunk + pending

    def _decode(self) -> str:
        if not any(token in self._visible for token in self._window):
            return self._tokenizer.decode(self._window, skip_special_tokens=True)
        text, part = "", list[int]()
        for token in self._window:
            if token in self._visible:
                text += self._tokenizer.decode(part, skip_special_tokens=True) + (self._tokenizer.token(token) or "")
                part = []
            else:
                part.append(token)
        return text + self._tokenizer.decode(part, skip_special_tokens=True)

    def _decode_complete(self) -> str:
        text = self._decode()
        incomplete = len(text) - len(text.rstrip(REPLACEMENT_CHARACTER))
        return text[: len(text) - min(incomplete, MAX_INCOMPLETE_BYTES)]

    def _truncate_at_stop(self, chunk: str) -> str:
        text = self._pending + chunk
        begins = [begin for begin in (text.find(stop) for stop in self._stop) if begin >= 0]
        if begins:
            self.stopped = True
            self._pending = ""
            return text[: min(begins)]
        end = len(text) - max((_stop_prefix_length(text, stop) for stop in self._stop), default=0)
        self._pending = text[end:]
        return text[:end]


def _stop_prefix_length(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
