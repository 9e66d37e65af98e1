"""Learning from rewards on a tiny model: it learns, it resumes with the same bits, and it samples with the same seed."""

import dataclasses
import json

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.evaluate.logprobs import response_logprobs
from groundup.finetune.reinforcement.reinforcement import finetune_reinforcement
from groundup.finetune.reinforcement.rollout_batches import without_idle_rows
from groundup.finetune.reinforcement.rollouts import sample_groups
from groundup.model import Encoder
from groundup.recipe import ModelConfig
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS

PROBLEMS = [{"prompt": chr(97 + index), "answer": "x"} for index in range(12)]
KNOBS = {"max_answer_tokens": 4, "group_size": 4, "prompts_per_step": 3, "learning_rate": 3e-3, "method": "full"}
MACHINE = Machine(threads=1)


def lower_case(text, problem):
    return sum(letter.islower() for letter in text) / KNOBS["max_answer_tokens"]


def train(model, tokenizer, folder=None, machine=MACHINE, **knobs):
    return finetune_reinforcement(
        model, tokenizer, PROBLEMS, lower_case, PROBLEMS[:3], folder=folder, machine=machine, **KNOBS | knobs
    )


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "rloo"])
def test_reward_rises(make_decoder, byte_tokenizer, loss):
    result = train(make_decoder(), byte_tokenizer, loss=loss, epochs=4, learning_rate=3e-2, group_size=8)
    rewards = [record["reward"] for record in result.training.records]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.3
    assert result.before is not None
    assert result.after is not None
    assert result.after.reward > result.before.reward
    assert {"kl", "clip_fraction", "entropy", "answer_tokens"} <= result.training.records[0].keys()


def comparable(records):
    return [{key: value for key, value in r.items() if key not in NON_REPRODUCIBLE_FIELDS} for r in records]


@pytest.mark.parametrize(
    "knobs",
    [{"method": "lora", "kl_coefficient": 0.04}, {"loss": "rloo", "kl_coefficient": 0.04, "updates_per_rollout": 3}],
)
def test_resumed_run_is_the_same(make_decoder, byte_tokenizer, tmp_path, monkeypatch, knobs):
    whole = make_decoder()
    straight = train(whole, byte_tokenizer, tmp_path / "whole", **knobs)

    from groundup.finetune.reinforcement import rollout_batches

    calls = 0
    original = rollout_batches.RolloutBatches.batch

    def killed_batch(self, step):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(self, step)

    often = dataclasses.replace(MACHINE, checkpoint_every_seconds=0.0)
    monkeypatch.setattr(rollout_batches.RolloutBatches, "batch", killed_batch)
    with pytest.raises(KeyboardInterrupt):
        train(make_decoder(), byte_tokenizer, tmp_path / "killed", often, **knobs)
    monkeypatch.setattr(rollout_batches.RolloutBatches, "batch", original)
    model = make_decoder()
    resumed = train(model, byte_tokenizer, tmp_path / "killed", often, **knobs)
    assert comparable(resumed.training.records) == comparable(straight.training.records)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("whole", "killed")]
    assert samples[0] == samples[1]
    assert json.loads(samples[0].splitlines()[0])["step"] == 0


def test_samples_depend_on_the_seed_alone(make_decoder, byte_tokenizer):
    model, prompts = make_decoder(), [[10, 11, 12], [20]]
    options = {"max_tokens": 5, "stop_ids": byte_tokenizer.stop_ids}
    groups = sample_groups(model, prompts, 3, seed=1, **options)
    assert groups == sample_groups(model, prompts, 3, seed=1, **options)
    assert groups != sample_groups(model, prompts, 3, seed=2, **options)
    assert len({answer.tokens for answer in groups[0]}) > 1
    stop = groups[0][0].tokens[2]
    cut = sample_groups(model, prompts, 3, seed=1, max_tokens=5, stop_ids=[stop])[0][0]
    assert cut.finished
    assert cut.tokens == groups[0][0].tokens[: groups[0][0].tokens.index(stop) + 1]


def test_rows_without_advantage_change_nothing(make_decoder):
    torch.manual_seed(0)
    model = make_decoder()
    tokens = torch.randint(0, 200, (4, 6))
    mask = torch.ones_like(tokens)
    mask[:, :2] = 0
    batch = {"tokens": tokens, "mask": mask, "rows": torch.arange(4), "advantages": torch.tensor([1.0, 0.0, -0.5, 0.0])}

    def gradient(batch):
        losses = [
            -advantage * response_logprobs(model, ids[:2].tolist(), ids[2:].tolist()).mean()
            for ids, advantage in zip(batch["tokens"], batch["advantages"], strict=True)
        ]
        return torch.autograd.grad(torch.stack(losses).mean(), model.blocks[0].attention.o_proj.weight)[0]

    kept = without_idle_rows(batch)
    assert kept["rows"].tolist() == [0, 2]
    torch.testing.assert_close(gradient(kept), gradient(batch))


def test_refusals(make_decoder, byte_tokenizer):
    with pytest.raises(UserError, match="none of 12 prompts can be used: beyond the sequence length"):
        train(make_decoder(), byte_tokenizer, max_answer_tokens=90)
    shape = {"vocab_size": 264, "hidden_size": 32, "num_layers": 1, "num_heads": 2}
    with pytest.raises(UserError, match="a Encoder cannot learn from rewards"):
        train(Encoder(ModelConfig(architecture="encoder", **shape)), byte_tokenizer)
    byte_tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        train(make_decoder(), byte_tokenizer)
    with pytest.raises(TypeError, match="unexpected keyword argument 'group'"):
        train(make_decoder(), byte_tokenizer, group=4)
