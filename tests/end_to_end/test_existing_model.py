"""Recipes that start from a model that exists: fine-tuned, measured, quantized, trained further; from `init` to an answer."""

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from groundup import pipeline
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli import app, init_command
from groundup.data.conversation_shapes import in_turn
from groundup.finetune.chat_batches import encode_conversation
from groundup.finetune.finetune_plan import with_chat_template
from groundup.finetune.training_data.conversation_store import TrainingConversation
from groundup.interop import open_model
from groundup.recipe import Recipe, parse_recipe
from groundup.report.html_report import render_html
from groundup.report.report_files import build_report
from groundup.report.run_summary import summarize_run
from groundup.tokenizer import Tokenizer, train_tokenizer
from groundup.tokenizer.chat_template import PLAIN

TURNS = [
    ("What is an integer?", "A whole number."),
    ("What is a tuple?", "A sequence that does not change."),
    ("Who are you?", "A small model of nobody in particular."),
    ("Thank you", "You are welcome."),
]
SHAPE = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024, "initializer_range": 0.2,
}  # fmt: skip
MACHINE = Machine(threads=1, progress=PROGRESS_KINDS["none"]())


def write_model(folder: Path, model_type: str = "llama", **options: object) -> Path:
    """A Hugging Face folder with random weights and a tokenizer with a chat template."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SHAPE, **options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    train_tokenizer(topics.values(), vocab_size=384).save(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a text and conversations."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "tiny-llama")
    (folder / "text.txt").write_text("\n\n".join(topics[name] for name in sorted(topics)[:6]), encoding="utf-8")
    lines = [
        json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]})
        for asked, answer in TURNS
    ]
    (folder / "chat.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def base_recipe(folder: Path, name: str, **tables: object) -> Recipe:
    return parse_recipe({"name": name, "base": {"model": str(folder / "tiny-llama")}, **tables})


def run(recipe: Recipe, runs: Path) -> Path:
    list(pipeline.run(recipe, runs / recipe.name, MACHINE))
    return runs / recipe.name


def metrics(folder: Path) -> dict:
    manifest = Manifest.read(folder)
    assert manifest is not None
    return manifest.metrics


def test_finetuning_from_init_to_an_answer(inputs: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answers: dict[str, Any] = dict.fromkeys(("out", "recipe", "hardware", "hours", "data"))
    answers |= {"goal": "finetune", "model": str(inputs / "tiny-llama"), "chat": [str(inputs / "chat.jsonl")]}
    init_command.init(**answers, devices=1, yes=True)
    printed = capsys.readouterr().out
    assert "expect: 4 conversations" in printed
    assert printed.endswith("wrote tiny-llama-finetune.toml\nnext: groundup plan tiny-llama-finetune.toml\n")

    def groundup(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    changes = (
        "finetune.epochs=60",
        "finetune.learning_rate=0.01",
        "finetune.validation_fraction=0",
        "machine.threads=1",
    )
    knobs = [part for change in changes for part in ("--set", change)]
    planned = groundup("plan", "tiny-llama-finetune.toml", *knobs)
    assert "04-base, 06-chat, 10-export, 11-report" in planned
    assert "in rows of 64" in planned
    summary = groundup("run", "tiny-llama-finetune.toml", *knobs)
    assert "from tiny-llama" in summary
    assert "training questions answered as trained: 0 before, 4 of 4 after" in summary
    assert "groundup chat runs/tiny-llama-finetune" in summary
    assert "groundup serve runs/tiny-llama-finetune" in summary
    page = Path("runs/tiny-llama-finetune/11-report/report.html").read_text(encoding="utf-8")
    assert "Base model" in page
    assert "Pretraining" not in page
    assert "training tokens" not in page

    exported: Any = transformers.AutoModelForCausalLM.from_pretrained("runs/tiny-llama-finetune/10-export")
    tokenizer = transformers.AutoTokenizer.from_pretrained("runs/tiny-llama-finetune/10-export")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": TURNS[0][0]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = exported.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(ids, skip_special_tokens=True) == TURNS[0][1]


def test_the_base_artifact_equals_the_model(inputs: Path, tmp_path: Path):
    folder = run(base_recipe(inputs, "copy"), tmp_path)
    tokens = torch.arange(20)[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(inputs / "tiny-llama")(tokens).logits
    ours, tokenizer = open_model(folder / "04-base", device="cpu")
    torch.testing.assert_close(ours(tokens).logits, theirs, rtol=0, atol=1e-4)
    assert tokenizer.fingerprint == Tokenizer.load(inputs / "tiny-llama").fingerprint
    assert "model: " in summarize_run(folder)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_other_families_are_finetuned(inputs: Path, tmp_path: Path, family: str):
    write_model(tmp_path / family, family)
    chats = [{"name": "chat", "kind": "messages", "path": str(inputs / "chat.jsonl")}]
    finetune = {"conversations": chats, "epochs": 8, "validation_fraction": 0, "learning_rate": 0.005}
    recipe = parse_recipe(
        {"name": "taught", "base": {"model": str(tmp_path / family)}, "finetune": finetune, "export": {}}
    )
    folder = run(recipe, tmp_path)
    loss = metrics(folder / "06-chat")["loss"]
    assert loss["train_end"] < loss["train_start"]
    assert metrics(folder / "10-export")["family"] == family


def test_a_model_is_known_by_its_content(inputs: Path, tmp_path: Path):
    moved = tmp_path / "moved" / "tiny-llama"
    shutil.copytree(inputs / "tiny-llama", moved)
    recipe = base_recipe(moved.parent, "known")
    folder = run(recipe, tmp_path)
    there = base_recipe(inputs, "known")
    states = [state for _, state in pipeline.run(there, folder, MACHINE)]
    assert states == ["done"]
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))
    with pytest.raises(UserError, match="the recipe differs"):
        list(pipeline.run(recipe, folder, MACHINE))
    shutil.rmtree(moved)  # the run keeps its copy
    assert [state for _, state in pipeline.run(recipe, folder, MACHINE)] == ["done"]


def test_quantization_alone_calibrates_on_text_of_the_model(inputs: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("groundup.quantize.calibration_text.SAMPLED_TOKENS", 2_000)
    folder = run(base_recipe(inputs, "small", quantize={"group_size": 32}), tmp_path)
    quantized = metrics(folder / "09-quantized")
    assert quantized["text_origin"] == "samples"
    assert quantized["bytes"]["after"] < quantized["bytes"]["before"]
    assert quantized["held_out"]["autoround"]["kl_divergence"] < quantized["held_out"]["rtn"]["kl_divergence"] * 1.2
    assert "wrote itself" in render_html(build_report(folder))


def test_evaluation_of_a_text(inputs: Path, tmp_path: Path):
    text = str(inputs / "text.txt")
    folder = run(base_recipe(inputs, "measured", evaluate={"text": text, "max_new_tokens": 3}), tmp_path)
    scores = metrics(folder / "05-scores")
    assert scores["bits_per_byte"] > scores["baselines"]["xz"]  # random weights
    assert scores["documents"] >= 2
    assert scores["bits_per_byte_interval"] is not None
    assert "On the text that the recipe names" in render_html(build_report(folder))


def test_training_goes_on_with_the_tokenizer_of_the_model(inputs: Path, tmp_path: Path):
    source = {"name": "text", "kind": "text", "path": str(inputs / "text.txt")}
    recipe = base_recipe(
        inputs,
        "further",
        data={"sources": [source], "validation_fraction": 0.2},
        train={"steps": 20, "batch_tokens": 512, "sequence_length": 128, "learning_rate": 0.003},
        evaluate={"num_continuations": 0, "max_new_tokens": 3},
    )
    folder = run(recipe, tmp_path)
    losses = [json.loads(line)["loss"] for line in (folder / "04-base" / "steps.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.5
    assert Tokenizer.load(folder / "04-base").fingerprint == Tokenizer.load(inputs / "tiny-llama").fingerprint
    first = open_model(inputs / "tiny-llama", device="cpu")[0].state_dict()["embedding.tokens.weight"]
    trained = open_model(folder / "04-base", device="cpu")[0].state_dict()["embedding.tokens.weight"]
    assert 0 < (trained - first).abs().mean() < 0.02  # of the same origin
    assert "Continued pretraining" in render_html(build_report(folder))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"tokenizer": {}}, r"\[base\] with \[tokenizer\]"),
        ({"model": {"hidden_size": 64}}, r"\[base\] with \[model\]"),
        ({"evaluate": {}}, r"\[evaluate\] has no text to score"),
        ({"train": {}}, r"\[train\] needs \[data\]"),
        ({"base": {"model": "nowhere"}}, "base.model: nowhere: no such file or folder"),
    ],
)
def test_what_a_base_model_cannot_be_used_for_is_one_line(inputs: Path, tmp_path: Path, tables: dict, message: str):
    with pytest.raises(UserError, match=message):
        run(parse_recipe({"name": "x", "base": {"model": str(inputs / "tiny-llama")}, **tables}), tmp_path)
    assert not (tmp_path / "x" / "04-base").exists()


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", '{"quantization_config": {"quant_method": "awq"}}'), ("quantization.json", "{}")]
)
def test_packed_weights_are_refused_before_anything_is_built(inputs: Path, tmp_path: Path, name: str, text: str):
    shutil.copytree(inputs / "tiny-llama", tmp_path / "packed")
    (tmp_path / "packed" / name).write_text(text, encoding="utf-8")
    recipe = parse_recipe({"name": "x", "base": {"model": str(tmp_path / "packed")}, "quantize": {}})
    with pytest.raises(UserError, match=r"base.model: .*packed weights with \[quantize\], which needs"):
        pipeline.plan_run(recipe, tmp_path / "x", MACHINE)


def test_rows_beyond_the_context_are_refused(inputs: Path, tmp_path: Path):
    chats = [{"name": "chat", "kind": "messages", "path": str(inputs / "chat.jsonl")}]
    recipe = base_recipe(inputs, "x", finetune={"conversations": chats, "sequence_length": 2048})
    with pytest.raises(UserError, match=r"finetune.sequence_length = 2048, expected at most .* 1024"):
        run(recipe, tmp_path)


LAST_TURN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}{{ m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As Qwen 3's: earlier answers are rendered without their thoughts, and learnt with them."""


def test_templates_of_models(inputs: Path):
    tokenizer = Tokenizer.load(inputs / "tiny-llama")
    conversation = TrainingConversation(in_turn([text for pair in TURNS[:2] for text in pair]))

    def learnt(template: str | None) -> str:
        tokenizer.chat_template = template
        encoded = encode_conversation(conversation, with_chat_template(tokenizer))
        ((ids, mask),) = encoded.variants
        return tokenizer.decode([id for id, kept in zip(ids, mask, strict=True) if kept])

    assert learnt(PLAIN) == f"{TURNS[0][1]}<|endoftext|>{TURNS[1][1]}<|endoftext|>"
    assert learnt(None) == f"{TURNS[0][1]}<|im_end|>{TURNS[1][1]}<|im_end|>"  # ChatML: its tokens are there
    assert learnt(LAST_TURN) == "".join(f"<think></think>{answer}<|im_end|>\n" for _, answer in TURNS[:2])
    with pytest.raises(
        UserError, match=r"the chat template .* ends an answer without a special token, expected one at which"
    ):
        learnt("{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}")


def test_a_classifier_of_an_encoder(inputs: Path, tmp_path: Path):
    folder = tmp_path / "tiny-bert"
    shape = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = transformers.BertConfig(**shape, intermediate_size=96, max_position_embeddings=128)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    train_tokenizer(topics.values(), vocab_size=384).save(folder)
    lines = [json.dumps({"text": f"{word} {number}", "label": word}) for word in ("yes", "no") for number in range(20)]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    examples = [{"name": "labels", "kind": "labels", "path": str(tmp_path / "labels.jsonl")}]
    finetune = {"task": "classification", "method": "full", "examples": examples, "epochs": 3}
    recipe = parse_recipe({"name": "labels", "base": {"model": str(folder)}, "finetune": finetune})
    assert metrics(run(recipe, tmp_path) / "06-chat")["task"] == "classification"
    assert "groundup classify" in summarize_run(tmp_path / "labels")


def test_the_model_is_an_input_that_a_recipe_may_have_to_be_allowed(inputs: Path):
    with pytest.raises(UserError, match=r"base\.model = .*, which machine.allowed_inputs does not allow"):
        base_recipe(inputs, "x", machine={"allowed_inputs": ["texts"]})
