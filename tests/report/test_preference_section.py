"""The report of preference tuning, and its warnings."""

import re

import pytest

from groundup.report.quality_checks import check_stage
from groundup.report.sections.preference_section import preference_section

BEFORE = {"loss": 0.69, "accuracy": 0.5, "ranking_accuracy": 0.2, "margin": 0.0, "chosen_log_prob": -2.0}
AFTER = {
    "loss": 0.5, "accuracy": 0.9, "ranking_accuracy": 0.4, "margin": 1.0, "chosen_log_prob": -2.1,
    "accuracy_interval": [0.8, 0.97],
}  # fmt: skip


def metrics(**changes):
    evaluation = {"step": 5, "chosen_reward": 0.2, "rejected_reward": -0.8} | AFTER
    return {
        "from": "base", "loss_name": "dpo", "options": {"beta": 0.1}, "method": "lora", "epochs": 1.0, "steps": 10,
        "batch_tokens": 900, "kept_step": 10, "learning_rate": 5e-5, "parameters": {"all": 100, "trained": 10},
        "preferences": {"read": 20, "kept": 19, "dropped": {"duplicate": 1}, "train": 15, "validation": 4},
        "scores": {"before": BEFORE, "after": AFTER}, "validation": [evaluation, evaluation | {"step": 10}],
        "sampled": {"answers": 4, "tokens_before": 20.0, "tokens_after": 22.0, "kl": 0.1},
        "answers": [{"prompt": "Hello", "before": "Hi", "answer": "Hello there"}],
    } | changes  # fmt: skip


def run_data(**changes):
    return {"stages": {"preference": {"metrics": metrics(**changes)}}}


def test_the_section_has_scores_curves_and_answers():
    found = preference_section(run_data())
    assert found is not None
    kinds = [element["kind"] for element in found["elements"]]
    assert kinds == ["paragraph", "key_values", "table", "figure", "lead_in", "chat"]
    rows = [[cell[0] for cell in row] for row in found["elements"][2]["rows"]]
    assert rows[1][1:] == ["0.50", "0.90", "0.800 to 0.970"]
    assert "0.10 nats a token" in found["elements"][0]["spans"][0]
    assert preference_section({"stages": {}}) is None


def test_a_reward_model_has_neither_answers_nor_divergence():
    sampled = {"answers": 0, "tokens_before": None, "tokens_after": None, "kl": None}
    found = preference_section(run_data(loss_name="reward", options={}, sampled=sampled, answers=[], scores=None))
    assert found is not None
    assert [element["kind"] for element in found["elements"]] == ["paragraph", "key_values", "figure"]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"scores": {"before": BEFORE, "after": AFTER | {"accuracy": 0.3}}}, "accuracy 0.30 .* below chance"),
        ({"scores": {"before": BEFORE, "after": AFTER | {"accuracy_interval": [0.45, 0.97]}}}, "may be chance"),
        ({"scores": {"before": BEFORE, "after": AFTER | {"chosen_log_prob": -3.0}}}, "less probable, by 1.00 nats"),
        ({"sampled": {"tokens_before": 20.0, "tokens_after": 31.0}}, "longer, from 20 to 31 tokens"),
        ({"answers": [{"prompt": "Hello", "answer": "no no no no no no no"}]}, "'Hello' repeats itself"),
    ],
)
def test_warnings(changes, warning):
    found = check_stage("preference", {"preference": metrics(**changes)})
    if warning is None:
        assert found == []
    else:
        (text,) = found
        assert re.search(warning, text)
