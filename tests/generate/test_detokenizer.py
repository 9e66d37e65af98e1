"""Incremental detokenization: chunks concatenate to the text, hold whole characters, and end before a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from groundup.generate.detokenizer import REPLACEMENT_CHARACTER, StreamDetokenizer
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe


def spaced_tokenizer() -> Tokenizer:
    """Like SentencePiece: words include their space, and the first space of a text is stripped."""
    words = {"<unk>": 0, "▁the": 1, "▁cat": 2, "s": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    backend = Backend(models.BPE(vocab=words, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend)


BYTES = train_bpe([], 260)  # the control tokens, and a token a byte
SPACED = spaced_tokenizer()


def stream(tokenizer, ids, context=(), stop=()):
    text = StreamDetokenizer(tokenizer, context, stop)
    return [*(text.push(id) for id in ids), text.finish()], text


@given(st.text(max_size=80))
def test_chunks_concatenate_to_the_text_and_hold_whole_characters(text):
    chunks, _ = stream(BYTES, BYTES.encode(text))
    assert "".join(chunks) == text
    assert all(REPLACEMENT_CHARACTER not in chunk for chunk in chunks if REPLACEMENT_CHARACTER not in text)


@given(st.lists(st.integers(0, 259), max_size=100))
def test_chunks_of_any_bytes_equal_the_decoded_whole(ids):
    chunks, _ = stream(BYTES, ids)
    assert "".join(chunks) == BYTES.decode(ids, skip_special_tokens=True)


def test_text_is_delayed_by_at_most_one_character():
    text = "né€😀" * 20
    shown, detokenizer = "", StreamDetokenizer(BYTES)
    for count, id in enumerate(BYTES.encode(text), 1):
        shown += detokenizer.push(id)
        assert len(text.encode()[:count]) - len(shown.encode()) < 4


def test_first_space_depends_on_the_context():
    assert "".join(stream(SPACED, [2, 3], context=[1])[0]) == " cats"
    assert "".join(stream(SPACED, [2, 3])[0]) == "cats"


def test_byte_fallback_characters_are_whole():
    euro = [4 + byte for byte in "€".encode()]
    chunks, _ = stream(SPACED, [1, *euro, 2], context=[1])
    assert chunks == [" the", "", "", "€", " cat", ""]


def test_special_tokens_and_padded_ids_have_no_text():
    assert stream(BYTES, [BYTES.eos_id, 5000, *BYTES.encode("a")], context=[9999])[0] == ["", "", "a", ""]


@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_output_ends_before_the_first_stop_string(text, stops):
    chunks, detokenizer = stream(BYTES, BYTES.encode(text), stop=stops)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert "".join(chunks) == text
        assert not detokenizer.stopped
    else:
        seen = text[: min(ends)]  # what had been generated when the first stop string was complete
        assert "".join(chunks) == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
        assert detokenizer.stopped


def test_stop_string_across_tokens_and_partial_stop_string_at_the_end():
    assert stream(BYTES, BYTES.encode("one\nUs"), stop=["\nUser:"])[0][-1] == "\nUs"
    chunks, detokenizer = stream(BYTES, BYTES.encode("one\nUser: hi"), stop=["\nUser:"])
    assert "".join(chunks) == "one"
    assert detokenizer.stopped


@pytest.mark.parametrize("length", [10, 1000])
def test_decoding_cost_per_token_is_bounded(length):
    seen = []

    class Watched:
        vocab_size = BYTES.vocab_size

        def decode(self, ids, *, skip_special_tokens):
            seen.append(len(ids))
            return BYTES.decode(ids, skip_special_tokens=skip_special_tokens)

    stream(Watched(), [200] * length)
    assert max(seen) <= 33
