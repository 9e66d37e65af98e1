"""Tokens around a text in GGUF: what the file says, and llama.cpp's rules where it says nothing."""

import pytest
from tokenizers.processors import TemplateProcessing

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.gguf_tokenizer import read_tokenizer, write_tokenizer
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe


def _with_template(single: str, **roles: str) -> Tokenizer:
    trained = train_bpe(["some text to learn"] * 9, 270)
    trained.backend.add_special_tokens(["<a>", "<b>"])
    names = [name for name in ("<a>", "<b>") if name in single]
    ids = [(name, trained.backend.token_to_id(name)) for name in names]
    trained.backend.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    return Tokenizer(trained.backend, **roles)


@pytest.mark.parametrize(("pre", "begins"), [("llama-bpe", True), ("tekken", True), ("gpt-2", False), ("glm4", False)])
def test_a_file_without_a_rule_follows_its_pretokenizer(pre: str, begins: bool):
    tokenizer = _with_template("<a> $A", bos="<a>")
    metadata = write_tokenizer(tokenizer, 300) | {"tokenizer.ggml.pre": pre}
    assert metadata.pop("tokenizer.ggml.add_bos_token") is True
    ids = read_tokenizer(metadata).encode("text", add_special_tokens=True)
    assert (ids[0] == tokenizer.bos_id) == begins


@pytest.mark.parametrize(
    ("single", "roles"),
    [("<a> $A", {}), ("$A", {"bos": "<a>"}), ("<b> $A", {"bos": "<a>"}),
     ("<a> $A <b>", {"bos": "<a>", "eos": "<b>"}), ("$A <b>", {})],
    ids=str,
)  # fmt: skip
def test_a_file_says_what_is_added(single: str, roles: dict):
    tokenizer = _with_template(single, **roles)
    metadata = write_tokenizer(tokenizer, 300)
    assert isinstance(metadata["tokenizer.ggml.add_bos_token"], bool)
    assert isinstance(metadata["tokenizer.ggml.add_eos_token"], bool)
    read = read_tokenizer(metadata)
    assert read.encode("text", add_special_tokens=True) == tokenizer.encode("text", add_special_tokens=True)


@pytest.mark.parametrize("single", ["<a> <b> $A", "$A <b>"])
def test_tokens_that_llama_cpp_cannot_add_are_refused(single: str):
    with pytest.raises(UserError, match="around a text"):
        write_tokenizer(_with_template(single, eos="<a>"), 300)
