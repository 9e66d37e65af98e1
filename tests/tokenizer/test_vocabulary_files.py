"""Folders without a tokenizer.json: the ids equal those of the original library, with and without special tokens."""

import base64
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
import tokenizers
from hard_texts import PROSE, TORTURE
from transformers import AutoTokenizer, MarianTokenizer

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer, load_pretrained_tokenizer
from groundup.tokenizer.bytes_to_unicode import from_unicode
from groundup.tokenizer.pretrained import from_tiktoken
from groundup.tokenizer.sentencepiece import load_sentencepiece
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


def train_unigram_model(texts: list[str], **settings: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.splitlines()]), model_writer=model,
        model_type="unigram", **{"vocab_size": 400, "hard_vocab_limit": False, "minloglevel": 2, **settings},
    )  # fmt: skip
    return model.getvalue()


def test_xlm_roberta_folder(prose: list[str], tmp_path: Path):
    """fairseq's ids: <s>, <pad>, </s> and <unk>, then the model's tokens from the fourth on, each one higher."""
    model = train_unigram_model([PROSE * 3, *prose])
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    loaded = load_pretrained_tokenizer(tmp_path)
    for text in TEXTS:
        if "<s>" not in text:
            expected = [id + 1 if id else 3 for id in original.encode(text)]
            assert loaded.encode(text) == expected, text
            assert loaded.encode(text, add_special_tokens=True) == [0, *expected, 2]
    assert loaded.decode(loaded.encode("the town  and")) == "the town and"
    assert (loaded.bos_id, loaded.pad_id, loaded.eos_id, loaded.token_id("<mask>")) == (0, 1, 2, len(original) + 1)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "camembert"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CamembertTokenizer"}))
    with pytest.raises(UserError, match=r"with the rules of CamembertTokenizer, expected XLMRobertaTokenizer"):
        load_pretrained_tokenizer(tmp_path)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_folder(prose: list[str], tmp_path: Path):
    answers = "Der schnelle Fuchs läuft über die Straße, große Äpfel und süße Öle für 12345 Menschen. " * 3
    source, target = train_unigram_model([PROSE * 3, *prose]), train_unigram_model([answers])
    (tmp_path / "source.spm").write_bytes(source)
    (tmp_path / "target.spm").write_bytes(target)
    pieces = [sentencepiece.SentencePieceProcessor(model_proto=model) for model in (target, source)]
    names = sorted({each.id_to_piece(id) for each in pieces for id in range(3, len(each))})
    vocabulary = ["</s>", "<unk>", *names, ">>deu<<", ">>fra<<", "<pad>"]
    ids = {name: id for id, name in enumerate(vocabulary)}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    theirs, ours = MarianTokenizer.from_pretrained(tmp_path), load_pretrained_tokenizer(tmp_path)
    for text in [*TEXTS, answers, "ßß ß äß", "\ue000 and \ue001"]:
        if "<" not in text:
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
            assert ours.encode(text, add_special_tokens=True) == theirs.encode(text)
    assert ours.encode(">>fra<< the fox") == [ids[">>fra<<"], *ours.encode("the fox")]
    assert theirs.encode(">>fra<< the fox", add_special_tokens=False) == ours.encode(">>fra<< the fox")
    answer = [ids[piece] for piece in pieces[0].encode(answers, out_type=str)]
    assert ours.decode(answer) == answers.strip()
    assert (ours.eos_id, ours.pad_id) == (0, len(ids) - 1)
    del ids[pieces[1].id_to_piece(9)]
    (tmp_path / "vocab.json").write_text(json.dumps({name: id for id, name in enumerate(ids)}))
    with pytest.raises(UserError, match=r"source\.spm: 1 pieces, such as '.*', without an id in vocab\.json"):
        load_pretrained_tokenizer(tmp_path)


def test_letters_that_unicode_composes_are_normalized_as_in_sentencepiece(prose: list[str]):
    """Korean syllables, kana and accents, taken apart as file systems do."""
    letters = [
        chr(code) for span in ((0xAC00, 0xD7A3, 61), (0xC0, 0x250, 1), (0x304C, 0x3094, 1)) for code in range(*span)
    ]
    words = ["".join(letters[i::31]) for i in range(31)]
    model = train_unigram_model([*prose, *words], normalization_rule_name="nmt_nfkc", vocab_size=1500)
    original, loaded = sentencepiece.SentencePieceProcessor(model_proto=model), load_sentencepiece(model)
    for word in words:
        apart = unicodedata.normalize("NFD", word)
        assert apart != word
        assert loaded.encode(apart) == original.encode(apart)


KIMI_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""As tokenization_kimi.py writes it."""


def test_kimi_folder(ranks: dict[bytes, int], tmp_path: Path):
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (tmp_path / "tiktoken.model").write_text("\n".join(lines))
    first = len(ranks)
    added = {str(first + id): {"content": name, "special": True} for id, name in ((0, "[BOS]"), (2, "<|im_end|>"))}
    config = {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": added, "bos_token": "[BOS]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_pretrained_tokenizer(tmp_path)
    original = tiktoken.Encoding("kimi", pat_str=KIMI_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text in [*TEXTS, "中文 and 狐狸A漢字Bc"]:
        assert loaded.encode(text) == original.encode(text), text
    assert loaded.token_id("<|im_end|>") == first + 2
    assert loaded.token(first + 1) == f"<|reserved_token_{first + 1}|>"
    assert (loaded.bos_id, loaded.vocab_size) == (first, first + 256)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer_class = None, expected a tiktoken file and 'TikTokenTokenizer'"):
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
