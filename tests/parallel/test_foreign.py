"""DeepSpeed and Megatron as engines: the losses, norms and gradients of one process, and checkpoints that others read.

Each runs in an environment of its own, with torch first:

    pip install torch==2.13.0 && pip install setuptools wheel
    pip install -c constraints.txt --no-build-isolation -e ".[deepspeed]" pytest pytest-timeout hypothesis beartype
    python -m pytest -m slow tests/parallel/test_foreign.py tests/interop/test_deepspeed.py

and so with `megatron`.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import resume
import torch
import world
from cases import FOREIGN
from resume import Errand
from sameness import Case, alone, bounds, config_of, differences, fresh, objective, settings, together

from groundup.artifacts.machine import Machine
from groundup.model import load_model
from groundup.train.engines.native import NativeEngine

MODULES = {"deepspeed": "deepspeed", "megatron": "megatron"}


def needs(engine):
    absent = find_spec(MODULES[engine]) is None
    return pytest.mark.skipif(absent, reason=f"{engine} is not installed in this environment")


def of(engine, *values):
    return pytest.param(*values, marks=needs(engine))


def named(engine, name):
    return FOREIGN[engine][name]


pytestmark = pytest.mark.slow

ALL = [of(engine, engine, name) for engine, cases in FOREIGN.items() for name in cases]
SOME = [
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-1"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-2, optimizer offload"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3, parameter offload"),
    of("megatron", "megatron", "Megatron tp=2"),
    of("megatron", "megatron", "Megatron dp=2, distributed optimizer"),
    of("megatron", "megatron", "Megatron tp=2, dp=2, distributed optimizer"),
]
HALF = [
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-1, bfloat16"),
    of("deepspeed", "deepspeed", "DeepSpeed ZeRO-3, bfloat16"),
    of("megatron", "megatron", "Megatron tp=2, bfloat16"),
    of("megatron", "megatron", "Megatron dp=2, distributed optimizer, bfloat16"),
]
FSDP = (2, Case({"shard": 2}))


@pytest.mark.parametrize(("engine", "name"), ALL)
def test_an_engine_trains_like_one_process(engine, name):
    ranks, case = named(engine, name)
    found = differences(case, world.run(ranks, together, case))
    for key, bound in bounds(case).items():
        assert found[key] < bound, f"{key} differs by {found[key]:.1e}"


@pytest.mark.parametrize(("engine", "name"), SOME + HALF)
def test_a_run_continues_bit_for_bit_in_the_same_engine(engine, name, tmp_path):
    ranks, case = named(engine, name)
    straight = world.run(ranks, resume.save_after_two, Errand(case, tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    assert world.run(ranks, resume.load_and_go_on, Errand(case, tmp_path)) == straight[2:]


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_a_run_moves_to_pytorchs_own_engine_and_back(engine, name, tmp_path):
    theirs, ours = named(engine, name), FSDP
    for number, (one, other) in enumerate(((theirs, ours), (ours, theirs))):
        folder = tmp_path / str(number)
        folder.mkdir()
        straight = world.run(one[0], resume.save_after_two, Errand(one[1], folder))
        resumed = world.run(other[0], resume.load_and_go_on, Errand(other[1], folder))
        assert resumed == pytest.approx(straight[2:], rel=1e-6)


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_the_whole_model_comes_out(engine, name, tmp_path):
    ranks, case = named(engine, name)
    world.run(ranks, resume.leave_whole, Errand(case, tmp_path))
    reference = NativeEngine(
        fresh("llama"), objective(config_of("llama")), settings(), Machine(micro_batch=16)
    )
    resume.follow(reference, "llama")
    mine, right = load_model(tmp_path).state_dict(), reference.trained().state_dict()
    assert mine.keys() == right.keys()
    for key, weight in right.items():
        torch.testing.assert_close(mine[key], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_the_model_answers_whole_in_evaluation(engine, name):
    ranks, case = named(engine, name)
    found = world.run(ranks, resume.answer, case)
    reference = NativeEngine(
        fresh("llama"), objective(config_of("llama")), settings(), Machine(micro_batch=16)
    )
    tokens = resume.batch("llama", 0)["tokens"][:, :13]
    for when in ("before", "after"):
        with reference.evaluating() as model, torch.no_grad():
            logits = model(tokens).logits.numpy()
            np.testing.assert_allclose(found[f"logits, {when}"], logits, atol=2e-4)
            np.testing.assert_allclose(found[f"hidden, {when}"], logits[:, -2:], atol=2e-4)
            assert found[f"loss, {when}"] == pytest.approx(float(model(tokens, tokens).loss), rel=1e-4)
        losses = resume.follow(reference, "llama", range(1))["losses"]
        assert found[f"step, {when}"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(("engine", "name"), SOME)
def test_what_is_discarded_or_not_finite_moves_nothing(engine, name):
    ranks, case = named(engine, name)
    found = world.run(ranks, resume.leave_out, case)
    assert not np.isfinite(found["norm"])
    right = alone("llama", settings())["losses"][:3]
    assert found["losses"] == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize(("engine", "name"), [SOME[0], SOME[4]])
@pytest.mark.parametrize(
    ("errand", "words"),
    [
        (resume.differ_in_seed, "rank 1 has another initial weights"),
        (resume.differ_in_recipe, "learning_rate = 0.005, and there 0.001"),
    ],
)
def test_ranks_that_were_given_different_runs_all_end_with_one_error(engine, name, errand, words):
    ranks, case = named(engine, name)
    assert words in world.run(ranks, errand, case)


@pytest.mark.parametrize(("engine", "name"), [SOME[4]])
def test_ranks_that_share_rows_must_be_fed_the_same(engine, name):
    ranks, case = named(engine, name)
    assert "different data" in world.run(ranks, resume.differ_in_data, case)
