"""Our losses of GRPO, Dr. GRPO and RLOO, and their gradients, beside those of TRL's trainers on the same log-probabilities.

TRL lives in an environment of its own: GROUNDUP_TRL_PYTHON names that environment's python.
"""

import json
import os
import subprocess

import pytest
import torch

from groundup.finetune.reinforcement.policy_gradient import policy_loss

pytestmark = pytest.mark.interop

SCRIPT = """
import json, sys
from collections import defaultdict
from types import SimpleNamespace
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

case = {name: torch.tensor(value) for name, value in json.load(open(sys.argv[1])).items()}
rows, length = case["mask"].shape
results = {}
for loss, kind in (("grpo", GRPOTrainer), ("dr_grpo", GRPOTrainer), ("rloo", RLOOTrainer)):
    trainer = kind.__new__(kind)  # no model: the log-probabilities are given
    log_probs = case["log_probs"].clone().requires_grad_()
    trainer.__dict__ |= dict(
        loss_type=loss, epsilon_low=0.2, epsilon_high=0.2, beta=0.04, importance_sampling_level="token",
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, aux_loss_enabled=False,
        current_gradient_accumulation_steps=1, max_completion_length=7, _entropy_bonus_enabled=False,
        vllm_importance_sampling_correction=False, model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, **_: x, num_processes=1),
        _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        _get_per_token_logps_and_entropies=lambda *a, **k: (log_probs, torch.zeros(rows, length), None),
    )
    zeros = torch.zeros(rows, length, dtype=torch.long)
    result = trainer._compute_loss(None, {
        "prompt_ids": zeros[:, :1], "prompt_mask": zeros[:, :1] + 1, "completion_ids": zeros, "completion_mask": case["mask"],
        "advantages": case["advantages"], "old_per_token_logps": case["old_log_probs"],
        "old_logps": (case["old_log_probs"] * case["mask"]).sum(1), "ref_per_token_logps": case["reference_log_probs"],
        "num_items_in_batch": case["mask"].sum(),
    })
    result.backward()
    results[loss] = {"loss": result.item(), "gradient": log_probs.grad.tolist()}
json.dump(results, open(sys.argv[2], "w"))
"""


def test_losses_and_gradients_equal_trl(tmp_path):
    python = os.environ.get("GROUNDUP_TRL_PYTHON")
    if not python:
        pytest.skip("GROUNDUP_TRL_PYTHON is not set")
    torch.manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    old = -torch.rand(3, 4)
    case = {
        "log_probs": old + 0.4 * torch.randn(3, 4),
        "old_log_probs": old,
        "reference_log_probs": old + 0.2 * torch.randn(3, 4),
        "advantages": torch.tensor([1.0, -0.7, 0.4]),
        "mask": mask,
    }
    given, result = tmp_path / "case.json", tmp_path / "result.json"
    given.write_text(json.dumps({name: tensor.tolist() for name, tensor in case.items()}))
    subprocess.run([python, "-c", SCRIPT, str(given), str(result)], check=True, timeout=600)
    theirs = json.loads(result.read_text())
    for loss in ("grpo", "dr_grpo", "rloo"):
        log_probs = case["log_probs"].clone().requires_grad_()
        others = {name: tensor for name, tensor in case.items() if name != "log_probs"}
        beta = 0.0 if loss == "rloo" else 0.04
        ours = policy_loss(log_probs, **others, loss=loss, kl_coefficient=beta, max_answer_tokens=7)
        ours.loss.backward()
        assert log_probs.grad is not None
        expected = torch.tensor(theirs[loss]["gradient"])
        torch.testing.assert_close(log_probs.grad, expected, rtol=1e-5, atol=1e-5)
        assert ours.loss.item() == pytest.approx(theirs[loss]["loss"], rel=1e-5)
