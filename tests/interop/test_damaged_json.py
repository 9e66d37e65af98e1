"""Damaged and edited JSON files at every door: one line, never a traceback."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_file
from groundup.artifacts.manifest import Manifest
from groundup.data.task_files import read_questions
from groundup.interop.adapters.adapter_config import ADAPTER_CONFIG, read_adapter_config
from groundup.interop.families import FAMILIES
from groundup.interop.huggingface_model import read_config
from groundup.interop.safetensors_files import _shards
from groundup.model.serialization import build_meta_model, load_config
from groundup.pipeline import read_recipe
from groundup.quantize.quantized_folder import QuantizationDescription
from groundup.recipe import ModelConfig, parse_recipe
from groundup.report.run_data import _lines, damaged_metrics
from groundup.tokenizer.token_shards import TokenShard
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_tokenizer

MODEL = ModelConfig(vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, context_length=32)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**70, 1.5, float("nan"), float("inf"), "", "x", "\ud800", [], [1], {}, {"a": 1}, [[[]]],
)  # fmt: skip


def mutations(value: Any, count: int) -> Iterator[str]:
    """JSON texts in which one value at a random place is another, or is missing; and a few broken texts."""
    yield from ("", "{", "[1]", "null", "1", '"x"', "[" * 100_000, '{"a":' * 100_000, "1" * 5000)
    generator = random.Random(0)
    for _ in range(count):
        edited = copy.deepcopy(value)
        container, key = edited, generator.choice(list(edited))
        while isinstance(container[key], dict | list) and container[key] and generator.random() < 0.7:
            container = container[key]
            key = generator.choice(list(container if isinstance(container, dict) else range(len(container))))
        if isinstance(container, dict) and generator.random() < 0.2:
            del container[key]
        else:
            container[key] = generator.choice(VALUES)
        yield json.dumps(edited)


def check(read: Callable[[], Any], path: Path, value: Any, count: int = 300) -> None:
    for text in mutations(value, count):
        path.write_text(text)
        message = ""
        try:
            read()
        except UserError as error:
            message = error.message
        except Exception as error:
            raise AssertionError(f"{error!r} for {text[:1000]}") from error
        assert "\n" not in message, text[:1000]


def test_manifest(tmp_path: Path):
    manifest = Manifest(
        "base", 1, "f" * 64, {"train": {"steps": 1}}, {"data": "e" * 64}, {"a": {"bytes": 1, "sha256": "d" * 64}}
    )
    check(lambda: Manifest.read(tmp_path), tmp_path / "manifest.json", asdict(manifest))


def test_recipe(tmp_path: Path):
    recipe = parse_recipe(
        {"name": "x", "data": {"sources": [{"name": "a", "kind": "text", "path": "*.txt"}]}, "train": {"steps": 5}}
    )
    check(lambda: read_recipe(tmp_path), tmp_path / "recipe.json", recipe.model_dump(mode="json", exclude_none=True))


def test_model(tmp_path: Path):
    check(lambda: load_config(tmp_path), tmp_path / "model.json", MODEL.model_dump(mode="json", exclude_none=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_huggingface_config(tmp_path: Path, name: str):
    family = FAMILIES[name]
    fields = family.defaults | {foreign: 4 for foreign in family.keys.values() if foreign not in family.defaults}
    fields |= {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_parameters": {"rope_type": "default"}}
    check(lambda: family.read_config(read_config(tmp_path)), tmp_path / "config.json", fields, 200)


def test_adapter_and_quantization(tmp_path: Path):
    path = tmp_path / "x.json"
    check(
        lambda: read_adapter_config(tmp_path),
        tmp_path / ADAPTER_CONFIG,
        {
            "peft_type": "LORA",
            "r": 8,
            "lora_alpha": 16,
            "trainable_token_indices": {"a": [1]},
            "rank_pattern": {"q": 4},
        },
    )
    check(
        lambda: read_json_file(QuantizationDescription, path),
        path,
        {"bits": 4, "group_size": 32, "symmetric": True, "layers": ["a"]},
    )


def test_tokenizer_config(tmp_path: Path):
    train_tokenizer(["some text to train on"], vocab_size=260).save(tmp_path)
    config = {
        "bos_token": {"content": "x"}, "eos_token": "y", "pad_token": None, "stop_tokens": ["<|im_end|>"],
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    }  # fmt: skip
    check(lambda: Tokenizer.load(tmp_path), tmp_path / "tokenizer_config.json", config)
    (tmp_path / "tokenizer_config.json").unlink()
    check(lambda: Tokenizer.load(tmp_path), tmp_path / "generation_config.json", {"eos_token_id": [1, 2]}, 50)


def test_huge_id_is_refused_before_memory_is_allocated(tmp_path: Path):
    train_tokenizer(["some text to train on"], vocab_size=260).save(tmp_path)
    rules = json.loads((tmp_path / "tokenizer.json").read_text())
    rules["model"]["vocab"]["huge"] = 2**31
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(UserError, match="id 2147483648"):
        Tokenizer.load(tmp_path)


def test_safetensors_index(tmp_path: Path):
    (tmp_path / "a.safetensors").touch()
    path = tmp_path / "model.safetensors.index.json"
    check(lambda: _shards(tmp_path), path, {"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}, 50)


def test_task_file_names_the_line(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    item = {"question": "a?", "choices": ["b", "c"], "answer": 0}

    def read() -> None:
        path.write_text(json.dumps(item) + "\n" + path.read_text())
        assert read_questions(path)

    check(read, path, item, 50)
    path.write_text(json.dumps(item) + "\n" + "[" * 100_000)
    with pytest.raises(UserError, match=r"t\.jsonl, line 2: not valid JSON"):
        read_questions(path)


def test_records_of_a_run(tmp_path: Path):
    path = tmp_path / "steps.jsonl"
    check(lambda: _lines(path), path, {"step": 1, "loss": 2.5}, 50)


def test_token_shard(tmp_path: Path):
    path = tmp_path / "train.json"
    sidecar = {"format": "x", "tokens": 1, "documents": 1, "bytes": 1, "sources": {"a": {"documents": 1}}}
    check(lambda: TokenShard(tmp_path / "train"), path, sidecar, 50)


def test_sizes_that_no_model_has(tmp_path: Path):
    for name, value in (("hidden_size", 2**62), ("vocab_size", 10**400), ("rope_theta", 10**400), ("head_dim", 2**17)):
        fields = MODEL.model_dump(mode="json", exclude_none=True) | {name: value}
        (tmp_path / "model.json").write_text(json.dumps(fields))
        with pytest.raises(UserError, match=name):
            load_config(tmp_path)
    with pytest.raises(UserError, match="a model of these sizes cannot be built"):
        build_meta_model(MODEL.model_copy(update={"hidden_size": 2**31, "num_heads": 2**31}))


def test_long_values_are_shortened():
    assert len(UserError("x" * 100_000).message) < 2_500


def test_damaged_metrics_are_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="damaged metrics: KeyError"), damaged_metrics(tmp_path):
        {}["bits"]
