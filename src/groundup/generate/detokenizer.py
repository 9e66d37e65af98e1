"""Tokens to text while they come: never half a character, nor the beginning of what may be a stop string."""

from collections.abc import Sequence

from groundup.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What a decoder shows for bytes that are no UTF-8, or not yet."""

MAX_INCOMPLETE_BYTES = 3
"""Bytes that an unfinished character has at most. Byte-level decoders show one mark for them all,
byte-fallback ones (SentencePiece) one each; held back for longer than necessary does no harm."""

CONTEXT_TOKENS = 8
"""Tokens kept before the new ones: decoders treat the first token of a text differently (its leading space)."""

WINDOW_TOKENS = 32
"""Tokens decoded at a time at most, so that the cost of a token does not grow with the answer."""


class StreamDetokenizer:
    """Turns one answer's tokens into pieces of text that add up to what decoding it whole would give.

    A piece is held back while its last character is unfinished, and while it may be the beginning of a stop
    string. Control tokens have no text, nor have ids past the vocabulary, of which a padded embedding has
    some.

    Args:
        context: the prompt's tokens, so that the answer's first space is right.
        stop: strings that end the answer; neither they nor what follows is returned.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = (), stop: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._window = [token for token in context[-CONTEXT_TOKENS:] if token < tokenizer.vocab_size]
        self._complete_text = self._decode_complete()
        self._stop = tuple(stop)
        self._pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that `token` settles; often one word, sometimes nothing."""
        if self.stopped or token >= self._tokenizer.vocab_size:
            return ""
        self._window.append(token)
        settled = self._decode_complete()
        piece = settled[len(self._complete_text) :]
        self._complete_text = settled
        if len(self._window) >= WINDOW_TOKENS:
            self._window = self._window[-CONTEXT_TOKENS:]
            self._complete_text = self._decode_complete()
        return self._truncate_at_stop(piece)

    def finish(self) -> str:
        """What was held back, now that nothing follows; a half character becomes U+FFFD."""
        if self.stopped:
            return ""
        piece = self._truncate_at_stop(self._decode()[len(self._complete_text) :])
        rest, self._pending = self._pending, ""
        return piece + rest

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)

    def _decode_complete(self) -> str:
        text = self._decode()
        unfinished = len(text) - len(text.rstrip(REPLACEMENT_CHARACTER))
        return text[: len(text) - min(unfinished, MAX_INCOMPLETE_BYTES)]

    def _truncate_at_stop(self, piece: str) -> str:
        text = self._pending + piece
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._pending = ""
            return text[: min(found)]
        keep = max((_stop_prefix_length(text, stop) for stop in self._stop), default=0)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]


def _stop_prefix_length(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
