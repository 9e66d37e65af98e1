"""Preference tuning: each loss raises the accuracy on held-out pairs; the stage resumes bit for bit and keeps its reference."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import list_files
from groundup.cli import app
from groundup.finetune import finetune_preferences, load_reward_model
from groundup.finetune.preference import answer_samples, reference_log_probs
from groundup.finetune.preference import stage as preference_stage
from groundup.finetune.preference.preference_batches import EncodedResponse, LabelledBatches, PairBatches, ResponsePair
from groundup.finetune.preference.preference_objective import PreferenceLoss
from groundup.finetune.preference.preference_sets import mismatched_rows
from groundup.generate import score_answers
from groundup.interop.adapters import load_adapter
from groundup.model import load_model, save_model
from groundup.recipe.preference_config import PreferenceConfig
from groundup.tokenizer import Tokenizer
from groundup.train.engines.native_engine import NativeEngine
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS
from groundup.train.training_loop import TrainConfig

PAIRS = [{"prompt": f"Q{n}?", "chosen": f"yes {n}", "rejected": f"no {7 * n}"} for n in range(30)]
MACHINE = Machine(device="cpu", threads=1)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "orpo", "simpo"])
def test_each_loss_raises_the_accuracy_on_held_out_pairs(make_decoder, byte_tokenizer, loss):
    result = finetune_preferences(
        make_decoder(), byte_tokenizer, PAIRS[:24], PAIRS[24:], loss=loss, epochs=1, batch_tokens=200, learning_rate=2e-2,
        machine=MACHINE,
    )  # fmt: skip
    assert result.before is not None
    assert result.after is not None
    before, after = result.before.means(), result.after.means()
    assert after["loss"] < before["loss"]
    assert after["margin"] > before["margin"]
    assert after["accuracy"] == 1
    if loss in ("dpo", "ipo", "kto"):
        assert before["accuracy"] == 0.5, "the model before the training is its own reference"
        assert before["margin"] == 0
    summary = result.after.summary(result.before)
    assert 0.5 < summary["accuracy_interval"][0] < 1, "all of a few pairs prove little"
    assert summary["accuracy_interval"][1] == pytest.approx(1)


def test_a_reward_model_scores_held_out_answers_right(inputs, tmp_path):
    metrics, _ = run_stage(inputs, tmp_path / "out", recipe(tmp_path, loss="reward", epochs=2))
    scores = metrics["scores"]
    assert scores["after"]["accuracy"] == 1
    assert "ranking_accuracy" not in scores["after"]
    assert metrics["sampled"]["answers"] == 0
    reward_model = load_reward_model(load_model(tmp_path / "out"), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "validation.jsonl").read_text().splitlines()]
    chosen, rejected = (
        score_answers(reward_model, Tokenizer.load(tmp_path / "out"), [line["prompt"] + line[kind] for line in lines])
        for kind in ("chosen", "rejected")
    )
    assert (chosen - rejected).mean().item() == pytest.approx(scores["after"]["margin"], abs=1e-3)
    command = ["classify", str(tmp_path / "out"), "yes", "no", "--query", "Q1?"]
    printed = CliRunner().invoke(app, command, catch_exceptions=False).stdout.splitlines()
    (tmp_path / "answers.jsonl").write_text(
        "".join(json.dumps({"prompt": "Q1?", "completion": a}) + "\n" for a in ("yes", "no"))
    )
    command = ["classify", str(tmp_path / "out"), "--input", str(tmp_path / "answers.jsonl")]
    assert CliRunner().invoke(app, command, catch_exceptions=False).stdout.splitlines() == printed
    rewards = [float(line.split()[0]) for line in printed]
    assert rewards == sorted(rewards, reverse=True)
    with pytest.raises(UserError, match="the reward was trained with another model"):
        load_reward_model(load_model(inputs["base"]), tmp_path / "out")
    with pytest.raises(UserError, match="no reward model"):
        load_reward_model(load_model(inputs["base"]), inputs["base"])


def test_labelled_answers_need_no_pairs(make_decoder, byte_tokenizer):
    answers = [
        {"prompt": pair["prompt"], "completion": pair[kind], "label": kind == "chosen"}
        for index, pair in enumerate(PAIRS)
        for kind in (("chosen", "rejected")[index % 2],)
    ]
    result = finetune_preferences(
        make_decoder(), byte_tokenizer, answers[:24], answers[24:], loss="kto", epochs=1, batch_tokens=200,
        learning_rate=2e-2, machine=MACHINE,
    )  # fmt: skip
    assert result.after is not None
    assert result.after.means()["accuracy"] == 1
    with pytest.raises(UserError, match=r"preferences\[0\]: not in a known shape"):
        finetune_preferences(make_decoder(), byte_tokenizer, answers, machine=MACHINE)


def test_pairs_that_do_not_fit_are_dropped_and_a_set_without_any_is_refused(make_decoder, byte_tokenizer):
    long = {"prompt": "x" * 90, "chosen": "a", "rejected": "b"}
    result = finetune_preferences(make_decoder(), byte_tokenizer, [long, *PAIRS[:2]], epochs=1, machine=MACHINE)
    assert [reason for _, reason in result.dropped] == ["too_long"]
    with pytest.raises(UserError, match="none of 1 preferences can be used: beyond the sequence length"):
        finetune_preferences(make_decoder(), byte_tokenizer, [long], machine=MACHINE)


def test_the_kl_estimate_is_one_number_for_the_batch_whatever_the_micro_batch(make_decoder):
    """Gradients of KTO would otherwise depend on the memory of the machine."""
    generator = torch.Generator().manual_seed(0)
    rows = [EncodedResponse(tuple(torch.randint(264, (9,), generator=generator).tolist()), (0,) * 4 + (1,) * 5)] * 6
    reference = torch.full((6,), -40.0)
    batch = LabelledBatches(rows, torch.arange(6) < 3, rows, reference, reference, 1000, 0, pad_id=0).batch(0)
    objective = PreferenceLoss("kto", 0.1).objective()
    config = TrainConfig(steps=1, learning_rate=1e-3, precision="float32")
    gradients = []
    for size in (1, 4):
        model = make_decoder()
        assert objective.prepare is not None
        assert objective.prepare(model, batch)["kl"].unique().item() > 0
        engine = NativeEngine(model, objective, config, Machine(device="cpu", threads=1, micro_batch_size=size))
        engine.forward_backward(batch)
        gradients.append([weight.grad for weight in engine.parameters])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_mismatched_rows_have_other_prompts():
    prompts = ["a", "a", "b", "b", "c"]
    partners = mismatched_rows(prompts, seed=1)
    assert all(prompts[row] != prompts[partner] for row, partner in enumerate(partners))
    assert mismatched_rows(["a"], seed=1) == [0]


def test_batches_hold_each_pair_once_an_epoch():
    pairs = [
        ResponsePair(EncodedResponse((1, n, 2), (0, 1, 1)), EncodedResponse((1, n, 3, 4), (0, 1, 1, 1)))
        for n in range(5, 15)
    ]
    reference = torch.arange(20.0).view(10, 2)
    batches = PairBatches(pairs, reference, batch_tokens=16, seed=3, pad_id=0)
    assert (batches.num_rows, batches.batch_rows) == (10, 2)
    read = [batch for step in range(5) for batch in [batches.batch(step)]]
    tokens = torch.cat([batch["tokens"] for batch in read])
    assert sorted(tokens[:, 1].tolist()) == list(range(5, 15))
    assert tokens[0].tolist() == [1, tokens[0, 1], 2, 0, 1, tokens[0, 1], 3, 4]
    assert torch.cat([batch["reference"] for batch in read])[:, 0].tolist() == [
        2 * (n - 5) for n in tokens[:, 1].tolist()
    ]


@pytest.fixture
def inputs(make_decoder, byte_tokenizer, tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.setattr(answer_samples, "MAX_SAMPLED_TOKENS", 4)
    monkeypatch.setattr(answer_samples, "MAX_SAMPLED_ANSWERS", 3)
    save_model(make_decoder(tie_embeddings=True, num_layers=1), tmp_path / "base")
    byte_tokenizer.save(tmp_path / "base")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in [*PAIRS, PAIRS[0]]))
    return {"base": tmp_path / "base"}


def recipe(tmp_path, **knobs):
    knobs = (
        {"epochs": 1, "batch_tokens": 400, "learning_rate": 1e-2, "precision": "float32"}
        | ({} if knobs.get("loss") == "reward" else {"prompts": ("Q1?",)})
        | knobs
    )
    source = {"name": "pairs", "path": str(tmp_path / "pairs.jsonl")}
    return SimpleNamespace(preference=PreferenceConfig(sources=[source], **knobs), seed=3)


def run_stage(inputs, out: Path, settings, **machine):
    out.mkdir(exist_ok=True)
    options = {"threads": 1, "device": "cpu", "checkpoint_every_seconds": 0.0} | machine
    metrics = preference_stage.run(settings, inputs, out, Machine(**options))
    metrics.pop("speed")
    files: dict[str, Any] = {name: entry["sha256"] for name, entry in list_files(out).items()}
    files["steps.jsonl"] = [
        {key: value for key, value in record.items() if key not in NON_REPRODUCIBLE_FIELDS}
        for record in read_jsonl(out / "steps.jsonl")
    ]
    return metrics, files


def test_stage(inputs, tmp_path):
    metrics, files = run_stage(inputs, tmp_path / "out", recipe(tmp_path))
    json.dumps(metrics, allow_nan=False)
    counts = metrics["preferences"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (31, 30, {"duplicate": 1})
    assert counts["train"] + counts["validation"] == 30
    held_out, train = ((tmp_path / "out" / f"{name}.jsonl").read_text() for name in ("validation", "train"))
    assert not {json.loads(line)["prompt"][0]["content"] for line in held_out.splitlines()} & {
        json.loads(line)["prompt"][0]["content"] for line in train.splitlines()
    }
    scores = metrics["scores"]
    assert (scores["before"]["accuracy"], scores["after"]["accuracy"]) == (0.5, 1)
    low, high = scores["after"]["accuracy_gain_interval"]
    assert low < 0.5 < high
    assert metrics["sampled"]["answers"] == 3
    assert metrics["sampled"]["kl"] > 0
    assert metrics["validation"][-1]["margin"] > 0
    assert "reference-train.safetensors" not in files, "part of the training, not of the result"
    tokens = torch.arange(30)[None]
    adapted = load_adapter(load_model(inputs["base"]), tmp_path / "out" / "adapter")
    merged = load_model(tmp_path / "out")
    torch.testing.assert_close(adapted(tokens).logits, merged(tokens).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_interrupted_while_answering_nothing_is_lost(inputs, tmp_path, monkeypatch, loss):
    """After the last step: neither a step nor a log-probability of the reference is computed again; results are equal."""
    settings = recipe(tmp_path, loss=loss)
    straight = run_stage(inputs, tmp_path / "straight", settings)
    real, calls = preference_stage.sample_answers, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("while answering")
        return real(*arguments)

    monkeypatch.setattr(preference_stage, "sample_answers", failing)
    with pytest.raises(RuntimeError, match="while answering"):
        run_stage(inputs, tmp_path / "out", settings)
    monkeypatch.setattr(
        reference_log_probs, "response_log_prob_sums", lambda *_: pytest.fail("the reference was computed again")
    )
    monkeypatch.setattr(NativeEngine, "forward_backward", lambda *_: pytest.fail("a step was computed again"))
    assert run_stage(inputs, tmp_path / "out", settings) == straight


def test_killed_in_training_it_resumes_bit_for_bit(inputs, tmp_path, monkeypatch):
    settings = recipe(tmp_path, method="full")
    straight = run_stage(inputs, tmp_path / "straight", settings)
    real, calls = NativeEngine.forward_backward, []

    def failing(self, batch):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("killed")
        return real(self, batch)

    monkeypatch.setattr(NativeEngine, "forward_backward", failing)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(inputs, tmp_path / "out", settings)
    assert run_stage(inputs, tmp_path / "out", settings) == straight
    assert len(calls) <= len(straight[1]["steps.jsonl"]) + 2


def test_options_of_a_loss():
    assert PreferenceLoss("simpo", 2.0, simpo_gamma=0.5).options == {"beta": 2.0, "gamma": 0.5, "label_smoothing": 0.0}
    for knobs, message in (
        ({"loss": "reward", "beta": 0.1}, "beta = 0.1 has no effect, expected a loss other than reward"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "no effect, expected loss = dpo or simpo"),
        ({"loss": "dpo", "desirable_weight": 2.0}, "desirable_weight = 2.0 has no effect, expected loss = kto"),
        ({"loss": "kto", "simpo_gamma": 2.0}, "no effect, expected loss = simpo"),
        ({"loss": "reward", "prompts": ("Hi",)}, "no effect, expected a loss other than reward"),
        ({"keep_best_weights": True, "validation_fraction": 0}, "expected validation_fraction above 0"),
        ({"sources": []}, "expected at least one source"),
    ):
        with pytest.raises(UserError, match=message):
            PreferenceConfig(**{"sources": [{"name": "a", "path": "a.jsonl"}]} | knobs)
