"""Folders without a tokenizer.json: the ids equal those of the original library, with and without special tokens."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
import tokenizers
from hard_texts import PROSE, TORTURE
from transformers import AutoTokenizer

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer, load_pretrained_tokenizer
from groundup.tokenizer.bytes_to_unicode import from_unicode
from groundup.tokenizer.pretrained import from_tiktoken
from groundup.tokenizer.split_patterns import O200K
from groundup.tokenizer.tiktoken_vocabularies import PUBLISHED
from groundup.tokenizer.tokenizer_training import train_bpe
from groundup.tokenizer.vocabulary_files import TEKKEN_SPECIAL_TOKENS

TEXTS = (PROSE, *TORTURE, "It's HTTPServer's getName() they'LL 12345")
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_merges(folder: Path, pattern: str, special_tokens: list[str], prose: list[str]) -> None:
    rules = json.loads(train_bpe([PROSE * 3, *prose], 700, pattern, special_tokens).backend.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(rules["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def assert_equals_transformers(folder: Path) -> None:
    ours, theirs = load_pretrained_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        if "[MASK]" not in text:
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False, split_special_tokens=True), text
            assert ours.encode(text, add_special_tokens=True) == theirs.encode(text, split_special_tokens=True), text
    for role in ("bos", "eos", "pad"):
        assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id")
    assert {t.content: id for id, t in ours.backend.get_added_tokens_decoder().items()} == theirs.get_added_vocab()


@pytest.mark.parametrize(("name", "pattern", "special_tokens", "config"), [
    ("GPT2Tokenizer", "gpt2", ["<|endoftext|>"], {}),
    ("GPT2Tokenizer", "gpt2", ["<|endoftext|>"], {"add_bos_token": True, "add_prefix_space": True}),
    ("RobertaTokenizer", "gpt2", ROBERTA, {}),
    ("Qwen2Tokenizer", "qwen2", ["<|endoftext|>", "<|im_start|>"], {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}),
])  # fmt: skip
def test_vocabulary_and_merges(
    name: str, pattern: str, special_tokens: list[str], config: dict[str, Any], prose: list[str], tmp_path: Path
):
    write_merges(tmp_path, pattern, special_tokens, prose)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **config}))
    assert_equals_transformers(tmp_path)


def test_vocabulary_with_unknown_rules_is_refused(prose: list[str], tmp_path: Path):
    write_merges(tmp_path, "gpt2", ["<|endoftext|>"], prose)
    with pytest.raises(UserError, match=r"no tokenizer_class in tokenizer_config\.json"):
        load_pretrained_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    with pytest.raises(UserError, match=r"vocab\.json with the rules of CLIPTokenizer, expected GPT2Tokenizer"):
        load_pretrained_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert load_pretrained_tokenizer(tmp_path).eos == "<|endoftext|>"


@pytest.mark.parametrize(
    "config", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False, "strip_accents": False}]
)
def test_wordpiece_vocabulary(config: dict[str, Any], prose: list[str], tmp_path: Path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    backend.train_from_iterator([PROSE * 3, *prose], trainer)
    by_id = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in by_id), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    assert_equals_transformers(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_folder(kind: str, prose: list[str], tmp_path: Path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in [PROSE * 3, *prose] for line in text.splitlines()]), model_writer=model,
        model_type=kind, vocab_size=500, hard_vocab_limit=False, byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    original = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    token = {"content": "<tool>", "special": True}
    config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": {str(len(original)): token}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ bos_token }}"}))
    loaded = load_pretrained_tokenizer(tmp_path)
    for text in TEXTS:
        if "<s>" not in text:
            assert loaded.encode(text) == original.encode(text)
            assert loaded.encode(text, add_special_tokens=True) == [1, *original.encode(text)]
    assert (loaded.bos, loaded.eos, loaded.token_id("<tool>")) == ("<s>", "</s>", len(original))
    assert loaded.chat_template == "{{ bos_token }}"


def test_t5_folder(prose: list[str], tmp_path: Path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in [PROSE * 3, *prose] for line in text.splitlines()]), model_writer=model,
        model_type="unigram", vocab_size=500, hard_vocab_limit=False, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    original = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    loaded = load_pretrained_tokenizer(tmp_path)
    for text in (PROSE, *prose):
        assert loaded.encode(text, add_special_tokens=True) == [*original.encode(text), 1]
    size = len(original)
    assert (loaded.token_id("<extra_id_99>"), loaded.token_id("<extra_id_0>")) == (size, size + 99)
    assert (loaded.eos_id, loaded.pad_id) == (1, 0)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer"}))
    with pytest.raises(UserError, match=r"spiece\.model with the rules of AlbertTokenizer, expected T5Tokenizer"):
        load_pretrained_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    entries = (tokenizer.token(id) for id in range(4, tokenizer.vocab_size))
    return {from_unicode(token): rank for rank, token in enumerate(entries) if token}


@pytest.mark.parametrize("special", [None, ["<unk>", "<s>", "</s>", "[INST]", "<pad>"]])
def test_tekken_file(special: list[str] | None, ranks: dict[bytes, int], tmp_path: Path):
    """mistral_common splits and merges as tiktoken, then adds the number of special tokens to each rank."""
    size, count = 650, 30
    fields: dict[str, Any] = {
        "config": {"pattern": O200K, "default_vocab_size": size, "default_num_special_tokens": count, "version": "v3"},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for token, rank in ranks.items()],
    }
    if special:
        fields["special_tokens"] = [
            {"rank": id, "token_str": name, "is_control": True} for id, name in enumerate(special)
        ]
    (tmp_path / "tekken.json").write_text(json.dumps(fields))
    used = {token: rank for token, rank in ranks.items() if rank < size - count}
    original = tiktoken.Encoding("tekken", pat_str=O200K, mergeable_ranks=used, special_tokens={})
    loaded = load_pretrained_tokenizer(tmp_path)
    for text in TEXTS:
        expected = [id + count for id in original.encode_ordinary(text)]
        assert loaded.encode(text) == expected
        assert loaded.encode(text, add_special_tokens=True) == [1, *expected]
        assert loaded.decode(expected) == text
    assert (loaded.vocab_size, loaded.bos_id, loaded.eos_id) == (size, 1, 2)
    names = [*(special or TEKKEN_SPECIAL_TOKENS)]
    assert loaded.token(3) == "[INST]"
    assert loaded.token(count - 1) == f"<SPECIAL_{count - 1}>"
    assert loaded.pad_id == names.index("<pad>")


def test_published_tiktoken_vocabulary_has_its_own_pattern(ranks: dict[bytes, int], monkeypatch: pytest.MonkeyPatch):
    """o200k keeps contractions with their words, whatever pattern is asked for."""
    published = next(vocabulary for (size, _), vocabulary in PUBLISHED.items() if size == 199_998)
    monkeypatch.setitem(PUBLISHED, (len(ranks), ranks.get(b" the", -1)), published)
    original = tiktoken.Encoding("o200k", pat_str=O200K, mergeable_ranks=ranks, special_tokens={})
    loaded = from_tiktoken(ranks, "gpt4")
    for text in TEXTS:
        assert loaded.encode(text) == original.encode_ordinary(text)
