"""Name, licence and origin of a model are kept from import to export; llama.cpp's converter reads the same from the README."""

import json
from pathlib import Path

import gguf
import pytest
import torch
import transformers

from groundup.interop import export_huggingface, open_model
from groundup.interop.gguf import export_gguf
from groundup.interop.gguf.gguf_file import GGUFFile
from groundup.interop.model_card import README, card_of_metadata, metadata_of_card, read_model_card, write_card_files
from groundup.model import build_model
from groundup.quantize import export_model
from groundup.recipe import ModelConfig
from groundup.tokenizer.tokenizer_training import train_bpe

CARD = """---
license: other
license_name: tongyi
license_link: https://example.org/LICENSE
model_name: My Model
base_model: org/Parent-7B
language: [en, de]
tags:
- text
unknown: {a: [1]}
---
# A page
"""
SHAPE = {"vocab_size": 262, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "a-model"
    export_huggingface(build_model(ModelConfig(**SHAPE)), train_bpe(["a bad bat at bad bat"] * 9, 262), path)
    (path / README).write_text(CARD)
    (path / "LICENSE.txt").write_text("You may.")
    return path


def test_a_card_survives_gguf_and_back(folder: Path, tmp_path: Path):
    files = export_model(folder, tmp_path / "gguf", format="gguf").files
    metadata = GGUFFile(tmp_path / "gguf" / "model.gguf").metadata
    assert {key: value for key, value in metadata.items() if key.startswith(("general.li", "general.na", "general.ba"))} == {
        "general.name": "My Model", "general.license": "other", "general.license.name": "tongyi",
        "general.license.link": "https://example.org/LICENSE", "general.base_model.count": 1,
        "general.base_model.0.name": "Parent-7B", "general.base_model.0.organization": "org",
    }  # fmt: skip
    assert (metadata["general.languages"], metadata["general.tags"]) == (["en", "de"], ["text"])
    assert (tmp_path / "gguf" / "LICENSE.txt") in files
    export_model(tmp_path / "gguf" / "model.gguf", tmp_path / "back", format="huggingface")
    assert (tmp_path / "back" / "LICENSE.txt").read_text() == "You may."
    back = read_model_card(tmp_path / "back")
    assert back == read_model_card(folder) | {"size_label": metadata["general.size_label"]}
    peer = gguf.Metadata.load(model_path=tmp_path / "back")
    assert (peer.name, peer.license, peer.license_name, peer.languages) == ("My Model", "other", "tongyi", ["en", "de"])
    export_model(folder, tmp_path / "copy", format="huggingface")
    assert (tmp_path / "copy" / README).read_text() == CARD
    open_model(tmp_path / "copy")


SAMPLING = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.1}


def test_recommended_sampling_survives_gguf_and_back(folder: Path, tmp_path: Path):
    file = folder / "generation_config.json"
    ids = json.loads(file.read_text())
    file.write_text(json.dumps(ids | {"do_sample": True, "max_length": 20} | SAMPLING))
    export_model(folder, tmp_path / "gguf", format="gguf")
    metadata = gguf.GGUFReader(tmp_path / "gguf" / "model.gguf").fields
    names = {"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "penalty_repeat": 1.1}
    assert {name: metadata[f"general.sampling.{name}"].contents() for name in names} == pytest.approx(names)
    export_model(tmp_path / "gguf" / "model.gguf", tmp_path / "back", format="huggingface")
    back = tmp_path / "back" / "generation_config.json"
    assert json.loads(back.read_text()) == ids | {"do_sample": True} | SAMPLING
    peer = transformers.GenerationConfig.from_pretrained(tmp_path / "back")
    assert (peer.temperature, peer.top_k, peer.do_sample) == (0.6, 20, True)
    assert "sampling" not in (tmp_path / "back" / README).read_text()
    base, chat = tmp_path / "run" / "04-base", tmp_path / "run" / "06-chat"
    base.mkdir(parents=True)
    chat.mkdir()
    write_card_files(folder, base)
    assert read_model_card(chat)["sampling"] == SAMPLING
    file.write_text(json.dumps({"temperature": 0.6}))  # greedy: no do_sample
    assert "sampling" not in read_model_card(folder)


def test_stages_of_a_run_have_its_name_and_the_licence_of_its_base_model(folder: Path, tmp_path: Path):
    base, chat = tmp_path / "my-run" / "04-base", tmp_path / "my-run" / "06-chat"
    base.mkdir(parents=True)
    chat.mkdir()
    assert read_model_card(chat) == read_model_card(base) == {"name": "my-run"}
    write_card_files(folder, base)
    assert read_model_card(base)["name"] == "My Model"
    assert read_model_card(chat) == {
        "name": "my-run", "license": "other", "license_name": "tongyi", "license_link": "https://example.org/LICENSE",
        "language": ["en", "de"], "base_model": ["My Model"],
    }  # fmt: skip
    (tmp_path / "out").mkdir()
    assert [file.name for file in write_card_files(chat, tmp_path / "out")] == [README, "LICENSE.txt"]


def test_a_file_without_a_name_has_that_of_the_file(tmp_path: Path):
    path = export_gguf(
        build_model(ModelConfig(**SHAPE)), train_bpe(["a bad bat at bad bat"] * 9, 262), tmp_path / "small.gguf"
    )
    assert read_model_card(path)["name"] == "small"


UNREADABLE = (
    "", "# no front matter", "---\nlicense: [", "---\na: &a [x]\nb: [*a]\nlicense: mit\n---\n", "---\n- 1\n---\n",
    "---\n\x00\n---\n",
)  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_cards_are_ignored(text: str, tmp_path: Path):
    (tmp_path / README).write_text(text)
    assert read_model_card(tmp_path) == {"name": tmp_path.name}


def test_hostile_values_are_left_out():
    hostile = {
        "general.name": 3,
        "general.license": "a\n b",
        "general.tags": ["x", 1, ""],
        "general.base_model.count": 10**9,
    }
    assert card_of_metadata(hostile) == {"license": "a b", "tags": ["x"]}
    assert metadata_of_card({"base_model": ["org/a", "b"]}) == {
        "general.base_model.count": 2, "general.base_model.0.name": "a", "general.base_model.0.organization": "org",
        "general.base_model.1.name": "b",
    }  # fmt: skip
