"""Recipes that a late stage would refuse: one error, from `plan` and from `run`, before any stage has a folder."""

import json
from typing import Any

import pytest
import torch

from groundup import pipeline
from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.cli import extras
from groundup.plan import derive
from groundup.plan.checks import stage_support
from groundup.plan.checks.stage_support import check_stages
from groundup.recipe import parse_recipe

MODEL = {"tie_embeddings": False, "hidden_size": 64, "num_layers": 4, "num_heads": 4, "context_length": 64}
TRAIN = {"learning_rate": 1e-3, "batch_tokens": 1024, "steps": 4}
SOURCES = [{"name": "a", "kind": "text", "path": "*.txt"}]
CHAT = {"conversations": [{"name": "pairs", "kind": "messages", "path": "chat.jsonl"}]}
TASK = {"name": "mine", "kind": "multiple_choice", "path": "mine.jsonl"}
T5 = {"architecture": "encoder_decoder", "position_embedding": "relative"}
MASKS = {"num_mask_tokens": 100}
ENCODER = {"architecture": "encoder"}


def layout(**axes: Any) -> dict[str, Any]:
    return {"machine": {"layout": axes}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no CUDA device": ({"machine": {"device": "cuda"}}, "device 'cuda': "),
    "batch over 3 devices": (layout(shard=3), "16 sequences is not divisible by 3 data parallel ranks"),
    "first batch over 4 devices": (
        layout(shard=4) | {"train": {"initial_batch_tokens": 128}}, "2 sequences is not divisible by 4 data parallel ranks",
    ),
    "first batch in a pipeline": (
        layout(pipeline=4) | {"train": {"initial_batch_tokens": 128}}, "initial_batch_tokens = 128: 2 sequences per pipeline",
    ),
    "first batch of half a sequence": ({"train": {"initial_batch_tokens": 32}}, "not a whole number of sequences"),
    "first sequence length": (
        layout(context=4) | {"train": {"initial_sequence_length": 4}}, "initial_sequence_length = 4, expected a multiple of 8",
    ),
    "odd sequence warmup": ({"train": {"initial_sequence_length": 12}}, "initial_sequence_length = 12: 64 is not a power of two"),
    "float8 on two devices": (layout(shard=2) | {"train": {"precision": "float8"}}, "precision = 'float8' on several devices"),
    "Muon in bfloat16": ({"train": {"optimizer": "muon", "precision": "bfloat16-pure"}}, "muon needs float32 weights"),
    "vocabulary": ({"model": {"vocab_size": 256}}, "model.vocab_size = 256, but the tokenizer has 320 entries"),
    "unknown source": ({"train": {"mix": {"wiki": 1.0}}}, "train.mix: no source 'wiki'"),
    "T5 pipeline": (layout(pipeline=2) | {"model": T5, "tokenizer": MASKS}, "pipeline = 2 with an encoder_decoder"),
    "T5 context": (
        layout(context=2) | {"model": T5, "tokenizer": MASKS}, "makes sequences of 58 and 14 tokens, expected a multiple of 4",
    ),
    "T5 Megatron": (
        {"model": T5, "tokenizer": MASKS, "train": {"engine": "megatron"}}, "encoder_decoder with train.engine = 'megatron'",
    ),
    "T5 without mask tokens": ({"model": T5}, "model.architecture = encoder_decoder needs mask tokens"),
    "T5 with few mask tokens": (
        {"model": T5, "tokenizer": {"num_mask_tokens": 2}}, "64 tokens have 3 masked spans, and the tokenizer has 2",
    ),
    "T5 scores whole contexts": (
        {"model": T5, "tokenizer": {"num_mask_tokens": 2}, "train": {"sequence_length": 32}, "evaluate": {}},
        "64 tokens have 3 masked spans, and the tokenizer has 2",
    ),
    "encoder without mask tokens": ({"model": ENCODER}, "model.architecture = encoder needs mask tokens"),
    "encoder packing": ({"model": ENCODER, "tokenizer": MASKS, "train": {"packing": "best-fit"}}, "are for decoders only"),
    "encoder samples": (
        {"model": ENCODER, "tokenizer": MASKS, "train": {"sample_prompts": ["The"]}}, "only a decoder continues text",
    ),
    "encoder tasks": ({"model": ENCODER, "tokenizer": MASKS, "evaluate": {"tasks": [TASK]}}, "evaluate.tasks with"),
    "encoder chat": ({"model": ENCODER, "tokenizer": MASKS, "finetune": CHAT}, "an encoder cannot be fine-tuned"),
    "quantize size and bits": ({"quantize": {"size": "1MB", "bits": 3}}, "bits = 3 with quantize.size = 1MB"),
    "quantize size of an encoder": (
        {"model": ENCODER, "tokenizer": MASKS, "quantize": {"size": "1MB"}}, "quantize.size with model.architecture = encoder",
    ),
    "quantize knob": ({"quantize": {"method": "awq", "act_order": False}}, "act_order = false with quantize.method = awq"),
    "export dtype": ({"export": {"dtype": "q4_0"}}, "dtype 'q4_0', expected one of float32, bfloat16, float16"),
    "export family": ({"model": {"logit_softcap": 3.0}, "export": {}}, "the model cannot be exported as"),
    "GGUF tokenizer": (
        {"tokenizer": {"algorithm": "unigram"}, "export": {"format": "gguf"}}, "a unigram tokenizer, expected BPE",
    ),
    "GGUF model": ({"model": {"embedding_norm": True}, "export": {"format": "gguf"}}, "the model cannot be exported as"),
}  # fmt: skip


def recipe_of(changes: dict[str, Any]) -> Any:
    values: dict[str, Any] = {"name": "toy", "data": {"sources": SOURCES}, "tokenizer": {"vocab_size": 320}}
    values |= {"model": MODEL, "train": TRAIN}
    return parse_recipe(values | {name: values.get(name, {}) | section for name, section in changes.items()})


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_first_stage(name, tmp_path, monkeypatch):
    if name == "no CUDA device" and torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.chdir(tmp_path)
    for file in ("a.txt", "chat.jsonl"):
        (tmp_path / file).write_text("text")
    (tmp_path / "mine.jsonl").write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}')
    changes, words = REFUSED[name]
    recipe = recipe_of(changes)

    def run() -> None:
        list(pipeline.run(recipe, tmp_path / "run", pipeline.resolve_machine(recipe, Progress())))

    for command in (lambda: check_stages(derive(recipe).recipe), run):
        if name == "no CUDA device" and command is not run:
            continue
        with pytest.raises(UserError) as caught:
            command()
        assert words in str(caught.value)
        assert caught.value.hint
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("0*"))


def test_recipes_that_are_not_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}))
    for changes in (
        {
            "finetune": CHAT,
            "quantize": {},
            "export": {"format": "gguf", "dtype": "q8_0"},
            "evaluate": {"tasks": [TASK]},
        },
        {"model": T5, "tokenizer": MASKS, "finetune": CHAT | {"method": "full"}, "evaluate": {}, "quantize": {}},
        {"model": ENCODER, "tokenizer": MASKS, "evaluate": {}, "quantize": {}},
        layout(pipeline=2, shard=2) | {"train": {"initial_batch_tokens": 256}},
        layout(context=2, tensor=2) | {"train": {"initial_sequence_length": 16}},
    ):
        check_stages(derive(recipe_of(changes)).recipe)


def test_a_missing_package_is_one_line_before_the_first_stage(monkeypatch):
    recipe = derive(recipe_of({"report": {}})).recipe
    check_stages(recipe)
    monkeypatch.setattr(stage_support, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        check_stages(recipe)
    assert (
        str(extras.missing_package_error(caught.value))
        == "typst is not installed (hint: pip install 'groundup[report]')"
    )
