"""DeepSpeed and Megatron as engines: losses, norms and gradients of one process, and checkpoints for any engine.

`make test-engines` runs each in an environment of its own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import engine_cases
import gloo_ranks
import numpy as np
import pytest
import torch
from engine_cases import CheckpointCase
from equivalence import (
    Case,
    bounds,
    build_toy_model,
    config_of,
    differences,
    objective,
    run_rank,
    run_single_process,
    settings,
)
from layout_cases import OTHER_ENGINES

from groundup.artifacts.machine import Machine
from groundup.model import load_model
from groundup.train.engines.native_engine import NativeEngine

MODULES = {"deepspeed": "deepspeed", "megatron": "megatron"}


def needs(engine):
    missing = find_spec(MODULES[engine]) is None
    return pytest.mark.skipif(missing, reason=f"{engine} is not installed in this environment")


def of(engine, *values):
    return pytest.param(*values, marks=needs(engine))


def named(engine, name):
    return OTHER_ENGINES[engine][name]


pytestmark = pytest.mark.interop

ALL = [of(engine, engine, name) for engine, cases in OTHER_ENGINES.items() for name in cases]
SOME = [
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-1"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-2, optimizer offload"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3, parameter offload"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-1, moe"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3, moe-bias"),
    of("megatron", "megatron", "Megatron tp=2"),
    of("megatron", "megatron", "Megatron dp=2, distributed optimizer"),
    of("megatron", "megatron", "Megatron tp=2, dp=2, distributed optimizer"),
    of("megatron", "megatron", "Megatron pp=2"),
    of("megatron", "megatron", "Megatron pp=2, dp=2, distributed optimizer"),
    of("megatron", "megatron", "Megatron ep=2, distributed optimizer"),
]
HALF = [
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-1, bfloat16"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3, bfloat16"),
    of("megatron", "megatron", "Megatron tp=2, bfloat16"),
    of("megatron", "megatron", "Megatron pp=2, bfloat16"),
    of("megatron", "megatron", "Megatron dp=2, distributed optimizer, bfloat16"),
]
MEGATRON = of("megatron", "megatron", "Megatron tp=2")


def single_process(case):
    """The reference engine of a case."""
    model = build_toy_model(case.model)
    return NativeEngine(model, objective(config_of(case.model)), settings(), Machine(micro_batch_size=16))


@pytest.mark.parametrize(("engine", "name"), ALL)
def test_engine_equals_single_process(engine, name):
    ranks, case = named(engine, name)
    found = differences(case, gloo_ranks.run_ranks(ranks, run_rank, case))
    for key, bound in bounds(case).items():
        assert found[key] < bound, f"{key} differs by {found[key]:.1e}"


@pytest.mark.parametrize(("engine", "name"), SOME + HALF)
def test_resume_in_the_same_engine_is_exact(engine, name, tmp_path):
    ranks, case = named(engine, name)
    straight = gloo_ranks.run_ranks(ranks, engine_cases.save_after_two, CheckpointCase(case, tmp_path))
    # Tensors and their checksums: no pickle.
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert gloo_ranks.run_ranks(ranks, engine_cases.load_and_continue, CheckpointCase(case, tmp_path)) == straight[2:]


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_resume_in_pytorch_and_back(engine, name, tmp_path):
    theirs = named(engine, name)
    ours = (2, Case({"shard": 2}, theirs[1].model))
    for number, (one, other) in enumerate(((theirs, ours), (ours, theirs))):
        folder = tmp_path / str(number)
        folder.mkdir()
        straight = gloo_ranks.run_ranks(one[0], engine_cases.save_after_two, CheckpointCase(one[1], folder))
        resumed = gloo_ranks.run_ranks(other[0], engine_cases.load_and_continue, CheckpointCase(other[1], folder))
        assert resumed == pytest.approx(straight[2:], rel=1e-6)


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_final_model_is_complete(engine, name, tmp_path):
    ranks, case = named(engine, name)
    gloo_ranks.run_ranks(ranks, engine_cases.save_full_model, CheckpointCase(case, tmp_path))
    reference = single_process(case)
    engine_cases.run_steps(reference, case.model)
    mine, right = load_model(tmp_path).state_dict(), reference.finalize().state_dict()
    assert mine.keys() == right.keys()
    for key, weight in right.items():
        torch.testing.assert_close(mine[key], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_evaluation_uses_the_full_model(engine, name):
    ranks, case = named(engine, name)
    found = gloo_ranks.run_ranks(ranks, engine_cases.evaluate_full_model, case)
    reference = single_process(case)
    tokens = engine_cases.batch(case.model, 0)["tokens"][:, :13]
    for when in ("before", "after"):
        with reference.eval_model() as model, torch.no_grad():
            logits = model(tokens).logits.numpy()
            np.testing.assert_allclose(found[f"logits, {when}"], logits, atol=2e-4)
            np.testing.assert_allclose(found[f"hidden, {when}"], logits[:, -2:], atol=2e-4)
            assert found[f"loss, {when}"] == pytest.approx(float(model(tokens, tokens).loss), rel=1e-4)
        losses = engine_cases.run_steps(reference, case.model, range(1))["losses"]
        assert found[f"step, {when}"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_skipped_and_infinite_gradients_change_nothing(engine, name):
    ranks, case = named(engine, name)
    found = gloo_ranks.run_ranks(ranks, engine_cases.skip_batches, case)
    assert not np.isfinite(found["norm"])
    right = run_single_process(case.model, settings())["losses"][:3]
    assert found["losses"] == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize(("engine", "name"), [SOME[0], MEGATRON])
@pytest.mark.parametrize(
    ("errand", "words"),
    [
        (engine_cases.differ_in_seed, "rank 1 differs from rank 0 in initial weights"),
        (engine_cases.differ_in_recipe, "learning_rate: 0.001 -> 0.005"),
    ],
)
def test_different_runs_are_one_error_on_all_ranks(engine, name, errand, words):
    ranks, case = named(engine, name)
    assert words in gloo_ranks.run_ranks(ranks, errand, case)


@pytest.mark.parametrize(("engine", "name"), [MEGATRON])
def test_ranks_of_one_sequence_need_the_same_data(engine, name):
    ranks, case = named(engine, name)
    assert "given different data" in gloo_ranks.run_ranks(ranks, engine_cases.differ_in_data, case)


@needs("deepspeed")
def test_build_after_a_killed_one(tmp_path):
    """A killed build has left a lock file on which PyTorch waits without end."""
    folder = tmp_path / "deepspeed_shm_comm"
    folder.mkdir()
    (folder / "lock").touch()
    code = (
        "import torch; from groundup.train.engines.deepspeed_engine import import_deepspeed; "
        "import_deepspeed(torch.device('cpu')); from deepspeed.comm.torch import build_shm_op; print(build_shm_op())"
    )
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert "deepspeed_shm_comm" in done.stdout.splitlines()[-1], done.stderr
    assert (folder / "deepspeed_shm_comm.so").exists()
    assert not (folder / "lock").exists()
