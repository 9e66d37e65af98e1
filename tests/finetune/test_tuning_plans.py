"""What `plan` says of tuning: the steps of the run, files that are missing, layers that the model has not."""

import json

import pytest

from groundup import pipeline
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.finetune.finetune_plan import check_base_chat, estimate_finetuning
from groundup.finetune.preference import answer_samples
from groundup.finetune.preference.preference_plan import estimate_preference
from groundup.finetune.training_data.input_check import check_missing_inputs
from groundup.model import save_model
from groundup.recipe import parse_recipe
from groundup.stage_runs import derive_recipe

REFUSING = "{% if messages[0]['content'] == 'Q3?' %}{{ raise_exception('no') }}{% endif %}"


@pytest.fixture
def values(make_decoder, byte_tokenizer, tmp_path):
    byte_tokenizer.chat_template = REFUSING + byte_tokenizer.chat_template
    save_model(make_decoder(num_layers=1), tmp_path / "model")
    byte_tokenizer.save(tmp_path / "model")
    records = [
        {"prompt": f"Q{n}?", "chosen": "yes " * (n % 5 + 1), "rejected": "no" * (1 + n % 3 * 6)} for n in range(24)
    ]
    for name, lines in (
        ("pairs", records),
        ("chat", [{"prompt": r["prompt"], "completion": r["chosen"]} for r in records]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {
        "name": "t",
        "base": {"model": str(tmp_path / "model")},
        "finetune": {
            "conversations": [{"name": "chat", "kind": "messages", "path": str(tmp_path / "chat.jsonl"), "repeats": 1.5}],
            "epochs": 2, "batch_tokens": 300, "prompts": [], "validation_fraction": 0.2,
        },
        "preference": {
            "sources": [{"name": "pairs", "path": str(tmp_path / "pairs.jsonl")}],
            "epochs": 2, "batch_tokens": 500, "prompts": [],
        },
    }  # fmt: skip


def test_steps_are_those_of_the_run(values, tmp_path, monkeypatch):
    monkeypatch.setattr(answer_samples, "MAX_SAMPLED_TOKENS", 1)
    recipe = parse_recipe(values)
    derived = derive_recipe(recipe).recipe
    finetuning, preference = estimate_finetuning(derived, Machine()), estimate_preference(derived, Machine())
    assert finetuning is not None
    assert preference is not None
    list(pipeline.run(recipe, tmp_path / "run", Machine(threads=1, device="cpu", progress=PROGRESS_KINDS["none"]())))
    metrics = [Manifest.read(tmp_path / "run" / name).metrics for name in ("06-chat", "07-preference")]  # type: ignore[union-attr]
    assert [metrics[0]["steps"], metrics[1]["steps"]] == [finetuning["steps"], preference["steps"]]
    assert finetuning["refused"] == metrics[0]["conversations"]["dropped"]["refused"] == 1
    assert (
        finetuning["learning_rate"] == metrics[0]["learning_rate"] == 1e-3
    )  # a small model that has been taught: no more
    assert finetuning["sequence_length"] == metrics[0]["sequence_length"]


def test_missing_files_are_said(values, tmp_path):
    values["preference"]["sources"][0]["path"] = "pears.jsonl"
    with pytest.raises(UserError, match=r"preference\.sources, pairs: no file matches pears\.jsonl") as caught:
        check_missing_inputs(parse_recipe(values))
    assert "relative to the folder in which the command runs" in (caught.value.hint or "")
    elsewhere = parse_recipe({"name": "t", "finetune": values["finetune"], "evaluate": {"text": "texts"}})
    assert check_missing_inputs(elsewhere) == ["evaluate.text: texts"]


def test_layers_are_known_before_the_run(values):
    values["finetune"]["lora_targets"] = ["q_proj", "qkv"]
    with pytest.raises(UserError, match="LoRA target 'qkv': no such layer") as caught:
        check_base_chat(derive_recipe(parse_recipe(values)).recipe)
    assert "q_proj" in (caught.value.hint or "")
