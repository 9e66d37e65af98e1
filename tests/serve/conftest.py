"""A client of a tiny server with random weights and a byte tokenizer."""

import sys
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.serve import create_app
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

sys.path.insert(0, str(Path(__file__).parent))  # for scripted_model


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([], 260)


@pytest.fixture(scope="session")
def base_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer without a chat template."""
    return Tokenizer(tokenizer.backend, eos=tokenizer.eos)


@pytest.fixture(scope="session")
def model() -> Decoder:
    torch.manual_seed(3)  # one whose answers are long
    config = ModelConfig(vocab_size=260, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, context_length=256)
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
