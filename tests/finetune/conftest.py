"""Fixtures: a small decoder, a byte tokenizer, and a few conversations."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from groundup.data.conversation_shapes import in_turn
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.recipe.finetune_config import ConversationSourceConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS

SHAPE = {"vocab_size": 264, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 96}

PAIRS = [("Hello", "Hi"), ("How are you?", "Fine."), ("Who made you?", "A human."), ("What is AI?", "A science.")]


@pytest.fixture
def make_decoder():
    def make(**knobs) -> Decoder:
        torch.manual_seed(0)
        return Decoder(ModelConfig(**SHAPE | knobs)).eval()

    return make


@pytest.fixture
def byte_tokenizer() -> Tokenizer:
    """Each byte is a token: no training needed."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(backend, eos="<|endoftext|>", pad="<|pad|>", chat_template=CHATML)


@pytest.fixture
def conversations() -> list[TrainingConversation]:
    return [TrainingConversation(in_turn([q, a]), "test", "small") for q, a in PAIRS]


@pytest.fixture
def messages_file(tmp_path: Path) -> ConversationSourceConfig:
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in PAIRS * 2]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ConversationSourceConfig(name="talk", kind="messages", path=str(path))
