"""Folders of tokenizers: tokens, rules and templates that only the files beside tokenizer.json name, against transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hard_texts import PROSE, TORTURE
from transformers import AutoTokenizer

from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

SIZE = 700
TEXTS = (PROSE, *TORTURE, "the <tool> 12  clock<a><b>")


def added(content: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": not special}
    return {"content": content, "special": special, **plain, **flags}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tokens by id": (
        {"added_tokens_decoder": {
            "700": added("<tool>"), "701": added("12", False), "702": added("clock", False, lstrip=True),
        }},
        {},
    ),
    "special tokens, and a role": (
        {"additional_special_tokens": ["<a>", "<|endoftext|>", "<b>"], "pad_token": "<fill>"}, {},
    ),
    "two files": (
        {"additional_special_tokens": ["<a>"]},
        {"additional_special_tokens": ["<c>"], "pad_token": {"content": "<p>", "lstrip": True}},
    ),
    "an older file beside tokens by id": (
        {"added_tokens_decoder": {"700": added("<q>")}}, {"additional_special_tokens": ["<c>"]},
    ),
    "named special tokens": ({"extra_special_tokens": {"image_token": "<image>"}}, {}),
    "bos, which tokenizer.json decides": ({"add_bos_token": True, "bos_token": "<|endoftext|>"}, {}),
    "a space before the text": ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, {}),
    "no space before the text": ({"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_files_beside_the_vocabulary_are_followed(case: str, prose: list[str], tmp_path: Path):
    config, older = CASES[case]
    train_bpe([PROSE * 3, *prose], SIZE, "gpt2").save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if older:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert {
        token.content: id for id, token in ours.backend.get_added_tokens_decoder().items()
    } == theirs.get_added_vocab()
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text, add_special_tokens=True) == theirs.encode(text, split_special_tokens=True)


@pytest.mark.parametrize(("file", "content"), [
    ("chat_template.jinja", "{{ bos_token }}A"),
    ("chat_template.json", json.dumps({"chat_template": "{{ bos_token }}A"})),
    ("tokenizer_config.json", json.dumps({"chat_template": "{{ bos_token }}A"})),
])  # fmt: skip
def test_files_of_chat_templates(file: str, content: str, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / file).write_text(content)
    assert Tokenizer.load(tmp_path).chat_template == "{{ bos_token }}A"


@pytest.mark.parametrize("in_config", [True, False])
def test_a_template_for_tools_renders_conversations_with_tools(in_config: bool, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    templates = {"default": "plain {{ messages[0].content }}", "tool_use": "{{ tools | length }} tools"}
    config["chat_template"] = (
        [{"name": name, "template": text} for name, text in templates.items()] if in_config else None
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if not in_config:
        (tmp_path / "chat_template.jinja").write_text(templates["default"])
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(templates["tool_use"])
    loaded = Tokenizer.load(tmp_path)
    loaded.save(tmp_path / "copy")
    peer = AutoTokenizer.from_pretrained(tmp_path)
    for ours in (loaded, Tokenizer.load(tmp_path / "copy")):
        for names in ({}, {"tools": [{"name": "add"}]}):
            expected = peer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, **names)
            assert ours.decode(ours.render_chat([{"role": "user", "content": "Hi"}], **names)) == expected
