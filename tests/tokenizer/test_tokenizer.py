"""Tokenizer: encode and decode, special tokens, files, and Llama-like and BERT-like backends."""

import json
import re
from pathlib import Path

import pytest
import tokenizers
from hard_texts import PROSE, texts
from hypothesis import given, settings
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.long_texts import LONG_TEXT, encode_text
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS, check_special_tokens
from groundup.tokenizer.tokenizer_stats import vocabulary_stats
from groundup.tokenizer.tokenizer_training import train_bpe, train_tokenizer


@given(text=texts)
@settings(max_examples=200, deadline=None)
def test_decode_inverts_encode(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, token: str):
    for text in (token, f"a{token}b", f" {token} " * 3, token[:-1] + token):
        ids = tokenizer.encode(text)
        assert not set(ids) & tokenizer.special_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_batch([text]) == [ids]


def test_special_token_roles(tokenizer: Tokenizer):
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 0, 3)
    assert tokenizer.stop_ids == {0, 2}
    assert tokenizer.vocab_size == 700


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(PROSE) == tokenizer.encode(PROSE)
    assert again.chat_template == tokenizer.chat_template
    assert (again.bos_id, again.eos_id, again.pad_id, again.stop_ids) == (None, 0, 3, {0, 2})
    again.save(tmp_path / "again")
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "again" / "tokenizer.json").read_bytes()


def test_training_is_deterministic(prose: list[str], tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "a")
    train_bpe(iter(prose), 700).save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_fingerprint_distinguishes_tokenizers(prose: list[str], tokenizer: Tokenizer):
    others = [train_bpe(prose, 699), train_bpe(prose, 700, "gpt2"), train_bpe(prose[:-1], 600)]
    assert len({tokenizer.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_too_little_text_error_names_the_reachable_size():
    with pytest.raises(UserError, match=r"vocab_size = 5000: the text yields only (\d+) entries") as caught:
        train_bpe([PROSE], 5000)
    supported = int(re.search(r"vocab_size=(\d+)", str(caught.value.hint)).group(1))  # type: ignore[union-attr]
    assert train_bpe([PROSE], supported).vocab_size == supported


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(("<a>", "<a>"), "is a duplicate"), (("<a>", "<<a>>"), "is a substring of"), (("<a>", " "), "is empty")],
)
def test_colliding_special_tokens_are_refused(tokens: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=message):
        check_special_tokens(tokens)
    with pytest.raises(UserError, match=message):
        train_bpe([PROSE], 300, special_tokens=tokens)


def test_dropout_of_a_foreign_tokenizer_is_off(tokenizer: Tokenizer):
    """Or each call would give other ids."""
    rules = json.loads(tokenizer.backend.to_str())
    rules["model"]["dropout"] = 0.5
    foreign = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(rules)))
    assert {tuple(foreign.encode(PROSE)) for _ in range(5)} == {tuple(tokenizer.encode(PROSE))}
    assert foreign.fingerprint == tokenizer.fingerprint


def test_statistics_of_a_vocabulary_with_a_distant_id():
    backend = tokenizers.Tokenizer(models.BPE({"aa": 0, "b": 99_999_999}, []))
    found = vocabulary_stats(Tokenizer(backend))
    assert (found["vocab_size"], found["longest_tokens"]) == (100_000_000, ["aa", "b"])


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer):
    for id in (-1, 700, 10**9):
        with pytest.raises(UserError, match=f"token id {id}, expected 0 to 699"):
            tokenizer.decode([5, id])


def test_incomplete_character_decodes_to_the_replacement_character(tokenizer: Tokenizer):
    ids = tokenizer.encode("\U0001f680")  # not in the training text: four bytes
    assert len(ids) > 1
    assert tokenizer.decode(ids[:-1]).endswith("\ufffd")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": "{"}, "not a readable tokenizer"),
        ({"tokenizer.json": None, "tokenizer_config.json": "[1]"}, "list found, expected an object"),
        ({"tokenizer.json": None, "tokenizer_config.json": "{"}, "not valid JSON"),
    ],
)
def test_broken_folders_are_refused(tokenizer: Tokenizer, tmp_path: Path, files: dict[str, str | None], message: str):
    for name, text in files.items():
        (tmp_path / name).write_text(tokenizer.backend.to_str() if text is None else text)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_role_without_vocabulary_entry_is_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="eos token '</s>' is not in the vocabulary"):
        Tokenizer(tokenizer.backend, eos="</s>")


# ---- other backends


def llama_like() -> tokenizers.Tokenizer:
    """A SentencePiece-like BPE as in Llama 2: dummy prefix, byte fallback, <s> before the text."""
    entries = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "h",
        "i",
        "▁h",
        "▁hi",
        "<",
        "s",
        ">",
    ]
    vocabulary = {entry: id for id, entry in enumerate(entries)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "h"), ("▁h", "i")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in entries[:3]])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
    return backend


def bert_like() -> tokenizers.Tokenizer:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##s", ",", "[", "]", "cls"]
    backend = tokenizers.Tokenizer(models.WordPiece({entry: id for id, entry in enumerate(entries)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    backend.decoder = decoders.WordPiece()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(token, special=True) for token in entries[:4]])
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def test_llama_like_tokenizer(tmp_path: Path):
    llama_like().save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<nowhere>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.stop_ids == {2, 5}
    hi = tokenizer.token_id("▁hi")
    assert tokenizer.encode("hi hi") == [hi, hi]
    assert tokenizer.encode("hi", add_special_tokens=True) == [1, hi]
    assert tokenizer.decode([1, hi, 2], skip_special_tokens=True) == "hi"
    assert 1 not in tokenizer.encode("<s>")
    assert tokenizer.decode(tokenizer.encode("hi é🤗")) == "hi é🤗"


def test_bert_like_tokenizer():
    tokenizer = Tokenizer(bert_like(), pad="[PAD]")
    assert tokenizer.encode("Hello, WORLDs", add_special_tokens=True) == [2, 4, 7, 5, 6, 3]
    assert 2 not in tokenizer.encode("[CLS]")
    assert tokenizer.encode_batch(["hello", "world"]) == [[4], [5]]


def test_truncation_and_padding_rules_are_ignored():
    backend = bert_like()
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    assert Tokenizer(backend).encode("hello, world, hello, world") == [4, 7, 5, 7, 4, 7, 5]


def test_train_tokenizer(prose: list[str], tokenizer: Tokenizer, tmp_path: Path):
    assert train_tokenizer(prose, 700).fingerprint == tokenizer.fingerprint
    qwen = train_tokenizer(prose, 700, pretokenizer="qwen2", special_tokens=(*SPECIAL_TOKENS, "<|tool|>"))
    assert qwen.token_id("<|tool|>") == 4
    assert len(qwen.encode("2024")) == 4
    assert train_tokenizer(prose, 340, algorithm="unigram").vocab_size == 340
    for name in ("algorithm", "pretokenizer"):
        with pytest.raises(UserError, match=f"{name} = 'other', expected one of"):
            train_tokenizer(prose, 700, **{name: "other"})  # type: ignore[arg-type]
    tokenizer.save(str(tmp_path))
    assert Tokenizer.load(str(tmp_path)).fingerprint == tokenizer.fingerprint


def test_long_texts_let_other_threads_run(tokenizer: Tokenizer):
    """`encode` of the library holds the interpreter's lock, so a server would stand still while it reads a long prompt."""

    class Backend:
        encode_batch = staticmethod(lambda texts, add_special_tokens: [f"{len(texts)} batch"])
        encode = staticmethod(lambda text, add_special_tokens: "alone")

    assert encode_text(Backend(), "x" * LONG_TEXT, add_special_tokens=False) == "1 batch"  # type: ignore[arg-type]
    assert encode_text(Backend(), "x", add_special_tokens=False) == "alone"  # type: ignore[arg-type]
    long = "Hello <|user|> w\u00f6rld \U0001f917. " * 1000
    assert (
        tokenizer.encode(long)
        == tokenizer.backend.encode(long, add_special_tokens=False).ids
        == tokenizer.encode_batch([long])[0]
    )
    messages = [{"role": "user", "content": long}, {"role": "assistant", "content": "\u00e9" + long}]
    ids, mask = tokenizer.render_chat_with_mask(messages)
    assert (
        tokenizer.decode([id for id, inside in zip(ids, mask, strict=True) if inside], skip_special_tokens=True)
        == "\u00e9" + long
    )
