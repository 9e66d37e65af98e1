"""A tiny server: random weights, a token a byte."""

import pytest
import torch
from starlette.testclient import TestClient
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.serve import create_app
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import CHATML


def byte_tokenizer(template: str | None) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return Tokenizer(backend, eos="<|endoftext|>", chat_template=template)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return byte_tokenizer(CHATML)


@pytest.fixture(scope="session")
def base_tokenizer() -> Tokenizer:
    """As a base model's, without a chat template."""
    return byte_tokenizer(None)


@pytest.fixture(scope="session")
def model() -> Decoder:
    torch.manual_seed(1)
    config = ModelConfig(
        vocab_size=260, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, context_length=256
    )
    model = Decoder(config).eval()
    with torch.no_grad():  # bigger weights, so that the likeliest token depends on all of the text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def client(model: Decoder, tokenizer: Tokenizer):
    with TestClient(create_app(model, tokenizer, name="tiny")) as client:
        yield client
