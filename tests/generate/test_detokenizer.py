"""Pieces of text add up to the whole, never hold half a character, and end before a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from groundup.generate.detokenizer import REPLACEMENT_CHARACTER, StreamDetokenizer
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.train_tokenizer import train_bpe


def spaced_tokenizer() -> Tokenizer:
    """As SentencePiece has it: a word holds its space, and the first space of a text is not shown."""
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
def test_pieces_add_up_and_hold_whole_characters(text):
    pieces, _ = stream(BYTES, BYTES.encode(text))
    assert "".join(pieces) == text
    assert all(REPLACEMENT_CHARACTER not in piece for piece in pieces if REPLACEMENT_CHARACTER not in text)


@given(st.lists(st.integers(0, 259), max_size=100))
def test_any_bytes_give_what_decoding_them_whole_gives(ids):
    pieces, _ = stream(BYTES, ids)
    assert "".join(pieces) == BYTES.decode(ids, skip_special_tokens=True)


def test_nothing_waits_longer_than_a_character():
    text = "né€😀" * 20
    shown, told = "", StreamDetokenizer(BYTES)
    for count, id in enumerate(BYTES.encode(text), 1):
        shown += told.push(id)
        assert len(text.encode()[:count]) - len(shown.encode()) < 4


def test_the_first_space_depends_on_what_came_before():
    assert "".join(stream(SPACED, [2, 3], context=[1])[0]) == " cats"
    assert "".join(stream(SPACED, [2, 3])[0]) == "cats"


def test_byte_fallback_characters_come_whole():
    euro = [4 + byte for byte in "€".encode()]
    pieces, _ = stream(SPACED, [1, *euro, 2], context=[1])
    assert pieces == [" the", "", "", "€", " cat", ""]


def test_control_tokens_and_padding_have_no_text():
    assert stream(BYTES, [BYTES.eos_id, 5000, *BYTES.encode("a")], context=[9999])[0] == ["", "", "a", ""]


@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_where_the_first_one_begins(text, stops):
    pieces, told = stream(BYTES, BYTES.encode(text), stop=stops)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert "".join(pieces) == text
        assert not told.stopped
    else:
        seen = text[: min(ends)]  # what had been generated when the first stop string was complete
        assert "".join(pieces) == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
        assert told.stopped


def test_a_stop_string_may_be_spread_over_tokens_and_its_beginning_is_not_lost():
    assert stream(BYTES, BYTES.encode("one\nUs"), stop=["\nUser:"])[0][-1] == "\nUs"
    pieces, told = stream(BYTES, BYTES.encode("one\nUser: hi"), stop=["\nUser:"])
    assert "".join(pieces) == "one"
    assert told.stopped


@pytest.mark.parametrize("length", [10, 1000])
def test_the_cost_of_a_token_does_not_grow(length):
    seen = []

    class Watched:
        vocab_size = BYTES.vocab_size

        def decode(self, ids, *, skip_special_tokens):
            seen.append(len(ids))
            return BYTES.decode(ids, skip_special_tokens=skip_special_tokens)

    stream(Watched(), [200] * length)
    assert max(seen) <= 33
