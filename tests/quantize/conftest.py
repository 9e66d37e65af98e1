"""A small decoder with outlier channels, and calibration windows."""

import copy

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS

SHAPE = {
    "vocab_size": 264,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 96,
    "context_length": 64,
}


@pytest.fixture
def make_decoder():
    def make(**knobs) -> Decoder:
        torch.manual_seed(0)
        model = Decoder(ModelConfig(**SHAPE | knobs)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def decoder(make_decoder):
    return make_decoder(num_kv_heads=2)


@pytest.fixture
def windows():
    return torch.randint(0, 260, (24, 48), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def copy_of():
    return copy.deepcopy


@pytest.fixture
def byte_tokenizer() -> Tokenizer:
    """A byte tokenizer without training."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(backend, eos="<|endoftext|>", pad="<|pad|>", chat_template=CHATML)
