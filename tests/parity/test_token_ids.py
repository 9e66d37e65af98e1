"""One tokenizer, the same ids everywhere: ours, the bulk encoder, transformers from our folder, and a GGUF file's."""

import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from groundup.interop.gguf import export_gguf, load_gguf
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.batch_encoder import BatchEncoder
from groundup.tokenizer.split_patterns import PATTERNS
from groundup.tokenizer.tokenizer_training import train_bpe

sys.path.insert(0, str(Path(__file__).parents[1] / "tokenizer"))
from hard_texts import PROSE, TORTURE

SIZE = 900


@pytest.fixture(scope="module", params=PATTERNS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_bpe([PROSE * 3, *(text[:400] * 2 for text in TORTURE)], SIZE, request.param)


def test_ids_are_the_same_everywhere(tokenizer: Tokenizer, tmp_path: Path):
    expected = [tokenizer.encode(text) for text in TORTURE]
    assert [tokenizer.decode(ids) for ids in expected] == list(TORTURE)
    assert not tokenizer.special_ids & {id for ids in expected for id in ids}

    bulk = BatchEncoder(tokenizer)
    assert bulk.uses_fastokens
    assert bulk.encode(TORTURE)[0].tolist() == [id for ids in expected for id in (*ids, tokenizer.eos_id)]

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(list(TORTURE), add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    assert [theirs.decode(ids, clean_up_tokenization_spaces=False) for ids in expected] == list(TORTURE)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)

    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 1, "intermediate_size": 32, "context_length": 8}
    model = build_model(ModelConfig(vocab_size=SIZE, **shape))
    _, read = load_gguf(export_gguf(model, tokenizer, tmp_path / "model.gguf"))
    assert [read.encode(text) for text in TORTURE] == expected


def test_conversations_have_the_ids_that_transformers_gives_them(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TORTURE if "<|" not in text]  # which transformers would take for control tokens
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    expected = theirs.apply_chat_template(turns, add_generation_prompt=True)
    assert tokenizer.render_chat(turns, add_generation_prompt=True) == expected["input_ids"]
