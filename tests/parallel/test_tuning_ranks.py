"""Fine-tuning and preference tuning on several ranks: losses and weights of one process, also after an interruption.

A batch has 3 rows, which 2 ranks cannot share evenly.
"""

import gloo_ranks
import numpy as np
import pytest
import tuning_cases
from tuning_cases import TuningCase

QUICK = {
    "full": TuningCase({"method": "full"}),
    "dora, LoRA+": TuningCase({"lora": {"dora": True, "plus_ratio": 16.0}, "precision": "bfloat16"}),
    "kto": TuningCase(loss="kto"),
    "grpo": TuningCase({"updates_per_rollout": 2}, loss="grpo"),
}
MORE = {
    "lora": TuningCase(),
    "untied": TuningCase(model={"tie_embeddings": False}),
    "qlora": TuningCase({"method": "qlora"}),
    "best weights": TuningCase({"keep_best_weights": True, "epochs": 20.0}),
    "mixture": TuningCase({"lora": {"targets": ("all", "experts")}},
                          model={"moe": {"num_experts": 4, "experts_per_token": 2}}),
    "dpo": TuningCase(loss="dpo"),
    "ipo, full": TuningCase({"method": "full"}, loss="ipo"),
    "orpo": TuningCase(loss="orpo"),
    "simpo": TuningCase(loss="simpo"),
    "reward": TuningCase(loss="reward"),
    "grpo, full": TuningCase({"method": "full"}, loss="grpo"),
    "rloo": TuningCase(loss="rloo"),
}  # fmt: skip
TOLERANCE = {"loss": 2e-6, "gradient_norm": 1e-5, "learning_rate": 0.0, "weights": 2e-5}


def assert_equal(found, expected, tolerance=TOLERANCE):
    assert found["step"] == expected["step"]
    assert found["tokens"] == expected["tokens"]
    for name in ("loss", "gradient_norm", "learning_rate"):
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance[name], atol=tolerance[name])
    assert [row["step"] for row in found["evaluations"]] == [row["step"] for row in expected["evaluations"]]
    for row, other in zip(found["evaluations"], expected["evaluations"], strict=True):
        for name in ("loss", "reward"):
            assert row.get(name) == pytest.approx(other.get(name), abs=1e-5)
    for name in ("kl", "reward"):
        np.testing.assert_allclose(found.get(name, []), expected.get(name, []), rtol=1e-5, atol=1e-6)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        np.testing.assert_allclose(found["weights"][name], weight, rtol=0, atol=tolerance["weights"], err_msg=name)


@pytest.mark.parametrize("cases", [QUICK, pytest.param(MORE, marks=pytest.mark.slow)], ids=["quick", "more"])
def test_two_ranks_tune_as_one(cases):
    found = gloo_ranks.run_ranks(2, tuning_cases.tune_all, cases)
    for name, case in cases.items():
        expected = tuning_cases.tune(case)
        assert "reward" in expected or expected["loss"][0] > expected["loss"][-1], name
        assert_equal(found[name], expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "layout"), [(2, {"replicate": 2, "shard": 1}), (4, {"replicate": 2, "shard": 2}), (4, {"shard": 4})]
)
def test_any_layout_of_rows_tunes_as_one_process(ranks, layout):
    """With 4 ranks one of them has no row of a batch."""
    cases = {"lora": TuningCase(layout=layout), "dpo": TuningCase(layout=layout, loss="dpo")}
    found = gloo_ranks.run_ranks(ranks, tuning_cases.tune_all, cases)
    for name, case in cases.items():
        assert_equal(found[name], tuning_cases.tune(TuningCase(loss=case.loss)))


def test_stopped_ranks_go_on_bit_for_bit(tmp_path):
    lora = {"dropout": 0.3, "plus_ratio": 4.0}
    cases = {
        "straight": TuningCase({"lora": lora}, folder=tmp_path / "straight"),
        "stopped": TuningCase({"lora": lora}, folder=tmp_path / "stopped", stops=(2, 5)),
    }
    found = gloo_ranks.run_ranks(2, tuning_cases.tune_all, cases)
    exact = dict.fromkeys(TOLERANCE, 0.0)
    assert_equal(found["stopped"], found["straight"], exact)
    assert found["stopped"]["evaluations"] == found["straight"]["evaluations"]
