"""One tokenizer, equal ids: `Tokenizer`, the batch encoder, transformers from the saved folder, and a GGUF file."""

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

    batch_encoder = BatchEncoder(tokenizer)
    assert batch_encoder.uses_fastokens
    assert batch_encoder.encode(TORTURE)[0].tolist() == [id for ids in expected for id in (*ids, tokenizer.eos_id)]

    tokenizer.save(tmp_path)
    hf_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert hf_tokenizer(list(TORTURE), add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    assert [hf_tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in expected] == list(TORTURE)
    assert (hf_tokenizer.eos_token_id, hf_tokenizer.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)

    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 1, "intermediate_size": 32, "context_length": 8}
    model = build_model(ModelConfig(vocab_size=SIZE, **shape))
    _, read = load_gguf(export_gguf(model, tokenizer, tmp_path / "model.gguf"))
    assert [read.encode(text) for text in TORTURE] == expected


def test_conversations_have_the_ids_that_transformers_gives_them(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    hf_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TORTURE if "<|" not in text]  # transformers would encode them as special tokens
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    expected = hf_tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    assert tokenizer.render_chat(turns, add_generation_prompt=True) == expected["input_ids"]
