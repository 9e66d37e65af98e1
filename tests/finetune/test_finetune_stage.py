"""The fine-tuning stage: learning, validation, kills and bit-identical results."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import groundup.finetune.stage as finetune_stage
from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import list_files
from groundup.data.conversation_shapes import in_turn
from groundup.finetune.finetune_task import greedy_answer
from groundup.finetune.stage import run
from groundup.finetune.tuning_options import METHODS
from groundup.interop.adapters import load_adapter
from groundup.model import load_model, save_model
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.train.engines.native_engine import NativeEngine
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS


@pytest.fixture
def inputs(make_decoder, byte_tokenizer, tmp_path) -> dict[str, Path]:
    folders = {"tokenizer": tmp_path / "tokenizer", "base": tmp_path / "base"}
    byte_tokenizer.save(folders["tokenizer"])
    save_model(make_decoder(tie_embeddings=True), folders["base"])
    byte_tokenizer.save(folders["base"])
    return folders


def recipe(source, **knobs):
    section = FinetuneConfig(
        **{
            "conversations": (source,), "lora_rank": 8, "epochs": 60, "batch_tokens": 192, "learning_rate": 1e-2,
            "precision": "float32", "validation_fraction": 0.3, "prompts": ("How are you?", "What is AI?"),
        }
        | knobs
    )  # fmt: skip
    return SimpleNamespace(finetune=section, seed=3)


def run_stage(inputs, tmp_path, settings, name="out", **machine):
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    metrics = run(settings, inputs, out, Machine(threads=1, device="cpu", checkpoint_every_seconds=0.0, **machine))
    metrics.pop("speed")
    files = {n: f["sha256"] for n, f in list_files(out).items()}
    files["steps.jsonl"] = [  # but for what the clock says
        {key: value for key, value in record.items() if key not in NON_REPRODUCIBLE_FIELDS}
        for record in read_jsonl(out / "steps.jsonl")
    ]
    return metrics, files


def test_recipe_methods_equal_implemented_methods():
    assert set(FinetuneConfig.model_fields["method"].annotation.__args__) == set(METHODS)


def test_finetuning_learns_and_replaces_answers(inputs, tmp_path, messages_file, byte_tokenizer):
    """All weights of a new model first; then other answers, with LoRA, over the model that came out."""
    settings = recipe(
        messages_file, method="full", lora_rank=None, learning_rate=5e-3, epochs=120, validation_fraction=0
    )
    metrics, files = run_stage(inputs, tmp_path, settings)
    assert [entry["answer"] for entry in metrics["answers"]] == ["Fine.", "A science."]
    json.dumps(metrics, allow_nan=False)
    assert metrics["loss"]["train_end"] < 0.1 < 1 < metrics["loss"]["train_start"]
    assert metrics["conversations"]["kept"] == 4
    assert metrics["conversations"]["dropped"] == {"duplicate": 4}
    assert metrics["parameters"]["trained"] == metrics["parameters"]["all"]
    assert not any("adapter" in name for name in files)
    assert greedy_answer(load_model(tmp_path / "out"), byte_tokenizer, "how are you") == "Fine."  # as people type

    path = Path(messages_file.path)
    path.write_text(path.read_text().replace("Fine.", "(").replace("A science.", "Fine.").replace("(", "A science."))
    inputs = inputs | {"base": tmp_path / "out"}
    metrics, files = run_stage(inputs, tmp_path, recipe(messages_file, epochs=60, validation_fraction=0), "taught")
    assert [entry["answer"] for entry in metrics["answers"]] == ["A science.", "Fine."]
    assert metrics["parameters"]["trained"] < metrics["parameters"]["all"]
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= files.keys()
    loaded = load_adapter(load_model(inputs["base"]), tmp_path / "taught" / "adapter")
    tokens = torch.arange(30)[None]
    torch.testing.assert_close(
        loaded(tokens).logits, load_model(tmp_path / "taught")(tokens).logits, rtol=1e-3, atol=1e-3
    )


def test_validation_conversations_are_evaluated_and_not_trained_on(inputs, tmp_path, messages_file):
    metrics, _ = run_stage(
        inputs, tmp_path, recipe(messages_file, epochs=30, learning_rate=0.05, keep_best_weights=True)
    )
    counts = metrics["conversations"]
    assert counts["train"] + counts["validation"] == counts["kept"] == 4
    assert counts["validation"] > 0
    held_out, train_lines = ((tmp_path / "out" / f"{name}.jsonl").read_text() for name in ("validation", "train"))
    assert not set(held_out.splitlines()) & set(train_lines.splitlines())
    assert metrics["loss"]["validation_start"] > 0
    assert metrics["validation"][-1]["step"] == metrics["steps"]
    best = min(metrics["validation"], key=lambda row: row["loss"])
    assert (metrics["loss"]["validation_end"], metrics["kept_step"]) == (best["loss"], best["step"])
    assert metrics["kept_step"] < metrics["steps"]
    assert metrics["stopped_early"]


def test_long_conversations_are_counted_and_recorded_as_they_are_learnt(inputs, tmp_path, messages_file):
    """A conversation of 60 turns was trained with its first 8, and recorded as 60."""
    path = Path(messages_file.path)
    long = {"messages": [{"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y"}]}
    sixty = {"messages": in_turn([str(number) for number in range(60)])}
    path.write_text(path.read_text() + json.dumps(long) + "\n" + json.dumps(sixty) + "\n")
    metrics, _ = run_stage(inputs, tmp_path, recipe(messages_file, epochs=1))
    assert metrics["conversations"]["dropped"] == {"duplicate": 4, "too_long": 1}
    assert metrics["conversations"]["changed"] == {"cut": 1}
    assert metrics["conversations"]["kept"] == 5
    out = tmp_path / "out"
    places = [(each["reason"], each["file"], each["line"]) for each in read_jsonl(out / "dropped.jsonl")]
    assert places == [*(("duplicate", "talk.jsonl", line) for line in range(5, 9)), *places[4:]]
    assert sorted(places[4:]) == [("cut", "talk.jsonl", 10), ("too_long", "talk.jsonl", 9)]
    learnt = [each["messages"] for name in ("train", "validation") for each in read_jsonl(out / f"{name}.jsonl")]
    assert sum(map(len, learnt)) == metrics["conversations"]["turns"]
    cut = next(messages for messages in learnt if messages[0]["content"] == "0")
    assert cut == sixty["messages"][: len(cut)]
    assert 2 <= len(cut) < 10


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace
import torch
from groundup.artifacts.machine import Machine
from groundup.finetune.stage import run
from groundup.recipe.finetune_config import FinetuneConfig
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS
torch.set_num_threads(1)
base, tokenizer, out, section = sys.argv[1:]
settings = SimpleNamespace(finetune=FinetuneConfig.model_validate_json(section), seed=3)
machine = Machine(threads=1, device="cpu", checkpoint_every_seconds=0.0)
run(settings, {"base": Path(base), "tokenizer": Path(tokenizer)}, Path(out), machine)
"""


def test_kill_and_resume_changes_no_bit(inputs, tmp_path, messages_file):
    settings = recipe(messages_file, epochs=40)
    straight = run_stage(inputs, tmp_path, settings)
    out = tmp_path / "killed"
    out.mkdir()
    command = [
        sys.executable,
        "-c",
        KILLED,
        inputs["base"],
        inputs["tokenizer"],
        out,
        settings.finetune.model_dump_json(),
    ]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(out.glob("checkpoints/step-0000000[3-9]"))):  # in the middle of learning
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    assert run_stage(inputs, tmp_path, settings, "killed") == straight


def test_rerun_without_manifest_changes_no_bit(inputs, tmp_path, messages_file):
    settings = recipe(messages_file, epochs=3)
    assert run_stage(inputs, tmp_path, settings) == run_stage(inputs, tmp_path, settings)


@pytest.mark.parametrize(
    "part", ["_recalled", *(pytest.param(name, marks=pytest.mark.slow) for name in ("save_tuned", "write_jsonl"))]
)
def test_a_failure_after_the_last_step_loses_no_step(inputs, tmp_path, messages_file, monkeypatch, part):
    """While the weights are written, questions are answered or the conversations are written."""
    settings = recipe(messages_file, epochs=3, keep_best_weights=True)
    straight = run_stage(inputs, tmp_path, settings)
    real, calls = getattr(finetune_stage, part), []

    def failing(*arguments, **names):
        calls.append(1)
        if len(calls) == (2 if part == "_recalled" else 1):
            raise RuntimeError("after the last step")
        return real(*arguments, **names)

    monkeypatch.setattr(finetune_stage, part, failing)
    with pytest.raises(RuntimeError, match="after the last step"):
        run_stage(inputs, tmp_path, settings, "failed")
    monkeypatch.setattr(NativeEngine, "forward_backward", lambda *_: pytest.fail("a step was computed again"))
    assert run_stage(inputs, tmp_path, settings, "failed") == straight


def test_the_layout_of_pretraining_does_not_stop_one_process(inputs, tmp_path, messages_file):
    metrics, _ = run_stage(inputs, tmp_path, recipe(messages_file, epochs=1), layout={"tensor": 2}, devices=2)
    assert metrics["steps"] > 0


def test_an_encoder_is_refused(make_decoder, inputs, tmp_path, messages_file, byte_tokenizer):
    from groundup.model import Encoder
    from groundup.recipe import ModelConfig

    encoder = Encoder(ModelConfig(architecture="encoder", vocab_size=264, hidden_size=32, num_layers=1, num_heads=2))
    save_model(encoder, inputs["base"])
    with pytest.raises(UserError, match="cannot be fine-tuned"):
        run_stage(inputs, tmp_path, recipe(messages_file))
