"""Pretrained tokenizers: the ids equal those of the original library; unsupported files are refused."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from hard_texts import PROSE, TORTURE, texts
from hypothesis import given, settings
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from test_stage import recipe, write_data

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.interop.gguf.gguf_tokenizer import read_tokenizer
from groundup.recipe.tokenizer_config import TokenizerConfig
from groundup.tokenizer import Tokenizer, pretrained, stage
from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.bytes_to_unicode import from_unicode
from groundup.tokenizer.pretrained import TiktokenRanks, from_tiktoken, load_pretrained_tokenizer
from groundup.tokenizer.sentencepiece import load_sentencepiece, parse_fields
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.tiktoken_vocabularies import PUBLISHED, tiktoken_vocabulary


@pytest.fixture(scope="module")
def ranks(tokenizer: Tokenizer) -> TiktokenRanks:
    """The vocabulary of the test tokenizer as tiktoken ranks."""
    entries = (tokenizer.token(id) for id in range(4, tokenizer.vocab_size))
    return {from_unicode(token): rank for rank, token in enumerate(entries) if token}


@pytest.fixture(scope="module")
def tiktoken_file(ranks: TiktokenRanks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiktoken") / "test.tiktoken"
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()))
    return path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tiktoken_file_equals_tiktoken(tiktoken_file: Path, ranks: TiktokenRanks, pattern: str):
    original = tiktoken.Encoding("test", pat_str=PATTERNS[pattern].regex, mergeable_ranks=ranks, special_tokens={})
    loaded = load_pretrained_tokenizer(tiktoken_file, pattern)
    batch_encoder = BatchEncoder(loaded)
    assert batch_encoder.uses_fastokens

    @given(text=texts)
    @settings(max_examples=150, deadline=None)
    def same(text: str):
        expected = original.encode_ordinary(text)
        assert loaded.encode(text) == expected
        assert batch_encoder.encode([text])[0].tolist() == [*expected, loaded.eos_id]

    same()
    for text in (PROSE, *TORTURE):
        assert loaded.encode(text) == original.encode_ordinary(text)
        assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.vocab_size, loaded.eos_id) == (len(ranks) + 4, len(ranks))


def test_published_tiktoken_vocabularies_have_their_special_tokens():
    """Llama 3's file has 128,000 ranks; the ids after them are named by its tokenizer_config.json."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {b" the" if id == 279 else f"t{id}".encode(): id for id in range(256, 128_000)}
    llama = from_tiktoken(ranks, "gpt4")
    assert llama.vocab_size == 128_256
    names = {128_000: "begin_of_text", 128_001: "end_of_text", 128_002: "reserved_special_token_0"}
    names |= {128_005: "reserved_special_token_2", 128_009: "eot_id", 128_011: "reserved_special_token_3"}
    names |= {128_255: "reserved_special_token_247"}
    assert {id: llama.token(id) for id in names} == {id: f"<|{name}|>" for id, name in names.items()}
    assert (llama.bos_id, llama.eos_id) == (128_000, 128_001)
    assert llama.stop_ids == {128_001, 128_008, 128_009}
    ids, mask = llama.render_chat_with_mask([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert ids[:2] == [128_000, 128_006]
    assert (ids[-1], sum(mask)) == (128_009, 2)
    assert tiktoken_vocabulary({b" the": 279} | {bytes([i, 0, 0]): i for i in range(255)}).special_tokens == {
        token: 280 + index for index, token in enumerate(SPECIAL_TOKENS)
    }
    published = {size: vocabulary for (size, _), vocabulary in PUBLISHED.items()}
    assert {size: vocabulary.special_tokens["<|endoftext|>"] for size, vocabulary in published.items() if size != 128_000} == {
        50_256: 50_256, 100_256: 100_257, 151_643: 151_643, 199_998: 199_999,
    }  # fmt: skip


def test_token_with_several_merges():
    """tiktoken merges any pair whose concatenation has the lowest rank, not only the pair of the training."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"bc": 256, b"ab": 257, b"abc": 258, b"abcbc": 259}
    original = tiktoken.Encoding("test", pat_str=PATTERNS["gpt4"].regex, mergeable_ranks=ranks, special_tokens={})
    loaded = from_tiktoken(ranks, "gpt4")
    for text in ("abc", "aabc", "abcab", "ababcbc", "abcbc", "xabcbcx"):
        assert loaded.encode(text) == original.encode_ordinary(text)


KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "split_digits": True},
    "no prefix": {"model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False},
    "user-defined symbols": {"model_type": "bpe", "user_defined_symbols": ["[X]", "\n\n"], "byte_fallback": True},
    "unigram": {"model_type": "unigram", "byte_fallback": True},
    "unigram, unknown": {"model_type": "unigram", "pad_id": 3},
}


def sentencepiece_model(prose: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    lines = [line for text in [PROSE * 3, *prose] for line in text.splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=600, hard_vocab_limit=False, minloglevel=2, **options
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_sentencepiece_model_equals_sentencepiece(kind: str, prose: list[str]):
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    model = sentencepiece_model(prose, **plain, **KINDS[kind])
    original, loaded = sentencepiece.SentencePieceProcessor(model_proto=model), load_sentencepiece(model)

    @given(text=texts)
    @settings(max_examples=150, deadline=None)
    def same(text: str):
        if "\0" not in text:  # which ends a text in sentencepiece
            assert loaded.encode(text) == original.encode(text)

    same()
    for text in (PROSE, *TORTURE):
        if "<s>" not in text:
            assert loaded.encode(text) == original.encode(text), text
    assert (loaded.bos, loaded.eos, loaded.pad) == ("<s>", "</s>", "<pad>" if "pad_id" in KINDS[kind] else None)
    ids = loaded.encode("<unk>a<s></s><s>[X]<s> <0x41>")
    assert not {1, 2, loaded.token_id("<0x41>")} & set(ids)
    assert 0 not in ids or kind == "unigram, unknown"


def test_normalizing_sentencepiece_model_equals_sentencepiece(prose: list[str]):
    model = sentencepiece_model(prose, model_type="unigram")
    original, loaded = sentencepiece.SentencePieceProcessor(model_proto=model), load_sentencepiece(model)
    for text in (*prose, "  ﬁ  ２ ①  Ａ \u00a0 é e\u0301 ", ""):
        assert loaded.encode(text) == original.encode(text)


def test_windows_line_breaks_are_normalized_as_two_characters(prose: list[str]):
    model = sentencepiece_model(prose, model_type="unigram", remove_extra_whitespaces=False)
    original, loaded = sentencepiece.SentencePieceProcessor(model_proto=model), load_sentencepiece(model)
    for text in ("a\r\nb", "\r\n\r\n", "a \r\n b", "a\n\rb", PROSE):
        assert loaded.encode(text) == original.encode(text)


def equal_scores_of_spaces(prose: list[str]) -> ModelProto:
    """A BPE model with runs of spaces of one score, as Mistral's: the merges of two runs are ordered by their lengths."""
    spaces = ["\u2581" * length for length in (2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11)]
    model = ModelProto.FromString(
        sentencepiece_model(
            prose,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        )
    )
    known = {piece.piece for piece in model.pieces}
    for token in spaces:
        if token not in known:
            model.pieces.add(piece=token, score=-1e9)
    for piece in model.pieces:
        if set(piece.piece) == {"\u2581"}:
            piece.score = -1e9
    return model


def test_runs_of_spaces_of_equal_score_equal_sentencepiece(prose: list[str]):
    model = equal_scores_of_spaces(prose)
    original = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    loaded = load_sentencepiece(model.SerializeToString())
    gguf = read_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
            "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
            "tokenizer.ggml.token_type": [piece.type for piece in model.pieces],
            "tokenizer.ggml.unknown_token_id": 0,
        }
    )
    for length in range(1, 70):
        for text in (" " * length, "a" + " " * length + "b", "\n" + " " * length + "def"):
            expected = original.encode(text)
            assert loaded.encode(text) == expected
            assert gguf.encode(text) == expected


def test_file_formats_are_detected_by_content(
    tokenizer: Tokenizer, tiktoken_file: Path, prose: list[str], tmp_path: Path
):
    tokenizer.save(tmp_path / "folder")
    (tmp_path / "plain.json").write_text(tokenizer.backend.to_str())
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_file.read_bytes())  # as Llama 3 has it
    (tmp_path / "spm.model").write_bytes(sentencepiece_model(prose, model_type="bpe"))
    expected = tokenizer.encode(PROSE)
    for name in ("folder", "folder/tokenizer.json", "plain.json"):
        assert load_pretrained_tokenizer(tmp_path / name).encode(PROSE) == expected
    assert load_pretrained_tokenizer(tmp_path / "folder").eos_id == 0
    assert load_pretrained_tokenizer(tmp_path).encode(PROSE) == load_pretrained_tokenizer(tiktoken_file).encode(PROSE)
    assert load_pretrained_tokenizer(tmp_path / "spm.model").eos == "</s>"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a supported tokenizer"),
        (b"{}", "not a readable tokenizer"),
        (b"YQ== 0\n", "no token for byte 0x00"),
        (b"".join(b"%s 7\n" % base64.b64encode(bytes([byte])) for byte in range(256)), "two tokens have the same rank"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "unterminated varint"),
        (b"\x0a\x7fabc", "a field of 127 bytes"),
        (b"\x0b", "wire type 3"),
        (b"hello world, this is no tokenizer\n", "not a supported tokenizer"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(UserError, match=message):
        load_pretrained_tokenizer(tmp_path)


def test_path_without_tokenizer_is_refused(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nothing.tiktoken", tmp_path / "tokenizer.json"):
        with pytest.raises(UserError, match="no such tokenizer"):
            load_pretrained_tokenizer(path)


def test_protobuf_fields():
    message = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d\x00\x00\x80\x3f" + b"\x21" + bytes(8)
    assert list(parse_fields(message)) == [(1, 150), (2, b"abc"), (3, b"\x00\x00\x80\x3f"), (4, bytes(8))]


# ---- in a recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), [PROSE, "zyzzyva quokka " * 50, *(PROSE[n:] for n in range(40))])


def run(data: Path, out: Path, **knobs: Any) -> Tokenizer:
    out.mkdir()
    stage.train(recipe(**knobs), {"data": data}, out, Machine())
    return Tokenizer.load(out)


def test_recipe_loads_or_extends_a_pretrained_tokenizer(data: Path, tiktoken_file: Path, tmp_path: Path):
    given = load_pretrained_tokenizer(tiktoken_file)
    size = given.vocab_size
    unchanged = run(data, tmp_path / "unchanged", pretrained=str(tiktoken_file), vocab_size=size)
    assert unchanged.fingerprint == given.fingerprint
    larger = run(data, tmp_path / "larger", pretrained=str(tiktoken_file), vocab_size=size + 20)
    assert larger.vocab_size == size + 20
    assert [larger.token(id) for id in range(size)] == [unchanged.token(id) for id in range(size)]
    assert len(larger.encode("zyzzyva quokka")) < len(unchanged.encode("zyzzyva quokka"))
    assert larger.encode(PROSE[:20]) == unchanged.encode(PROSE[:20]) or len(larger.encode(PROSE)) < len(
        unchanged.encode(PROSE)
    )
    assert larger.decode(larger.encode(PROSE)) == PROSE


def test_unsuitable_pretrained_tokenizers_are_refused(
    data: Path, tiktoken_file: Path, tokenizer: Tokenizer, tmp_path: Path
):
    with pytest.raises(UserError, match=r"vocab_size = 400: .*test.tiktoken has 700 entries"):
        run(data, tmp_path / "a", pretrained=str(tiktoken_file), vocab_size=400)
    with pytest.raises(UserError, match=r"mask_tokens = 1: .* has no <\|mask_0\|>"):
        run(data, tmp_path / "c", pretrained=str(tiktoken_file), vocab_size=700, num_mask_tokens=1)
    (tmp_path / "plain.json").write_text(tokenizer.backend.to_str())
    with pytest.raises(UserError, match="no eos token"):
        run(data, tmp_path / "b", pretrained=str(tmp_path / "plain.json"), vocab_size=700)


def test_tokenizer_hashes_follow_the_file_content(tiktoken_file: Path, tmp_path: Path):
    path = tmp_path / "t.tiktoken"
    path.write_bytes(tiktoken_file.read_bytes())
    section = TokenizerConfig(pretrained=str(path), compare={"other": str(tiktoken_file)})
    before = pretrained.hash_tokenizers(section, Machine())
    assert len(before) == 2
    path.write_bytes(path.read_bytes()[:-1])
    assert pretrained.hash_tokenizers(section, Machine()) != before
    with pytest.raises(UserError, match="no such tokenizer"):
        pretrained.hash_tokenizers(TokenizerConfig(pretrained=str(tmp_path / "none")), Machine())
