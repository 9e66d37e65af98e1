"""torch.compile of the training step: one graph, equal results."""

import json
import subprocess
import sys

import pytest

STEP = """
import json, sys, torch
from groundup.model import Decoder
from groundup.recipe import ModelConfig

torch.manual_seed(0)
torch.set_num_threads(1)
backend, knobs = sys.argv[1], json.loads(sys.argv[2])
differences = {}
for name, values in knobs.items():
    model = Decoder(ModelConfig(**values))
    tokens = torch.randint(0, 61, (2, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7, [2] * 12])

    def step(tokens, documents):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(tokens, labels=tokens, document_ids=documents, z_loss=0.01).loss

    found = []
    for run in (step, torch.compile(step, fullgraph=True, backend=backend)):
        for packed in (None, documents):
            loss = run(tokens, packed)
            loss.backward()
            found.append((loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])))
            model.zero_grad()
    torch._dynamo.reset()
    differences[name] = max(
        float((ours - reference).norm() / reference.norm())
        for eager, compiled in zip(found[:2], found[2:])
        for ours, reference in zip(compiled, eager)
    )
print(json.dumps(differences))
"""


def differences(backend: str, knobs: dict[str, dict]) -> dict[str, float]:
    """Relative difference of loss and gradients, compiled to eager, in a process without the tests' shape checks."""
    command = [sys.executable, "-c", STEP, backend, json.dumps(knobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_training_step_is_one_graph(all_decoders):
    knobs = all_decoders["qwen"] | {"num_layers": 1}
    assert differences("aot_eager", {"qwen": knobs})["qwen"] < 1e-2


@pytest.mark.slow
def test_training_step_of_every_dense_decoder_is_one_graph(all_decoders):
    dense = {name: knobs for name, knobs in all_decoders.items() if "moe" not in knobs}
    assert max(differences("aot_eager", dense).values()) < 1e-2


@pytest.mark.slow
def test_compiled_equals_eager(all_decoders):
    assert differences("inductor", {"qwen": all_decoders["qwen"]})["qwen"] < 3e-2
