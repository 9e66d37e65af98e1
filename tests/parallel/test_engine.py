"""The engine between steps: checkpoints that any layout reads, whole models, answers in evaluation, refusals."""

import numpy as np
import pytest
import resume
import torch
import world
from resume import Errand
from sameness import Case, alone, differences, fresh, objective, settings

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import load_model
from groundup.train.engines.native import NativeEngine
from groundup.train.engines.parallel import refuse

LAYOUTS = {
    "FSDP": (2, Case({"shard": 2}, "deep", 2)),
    "FSDP x TP": (4, Case({"shard": 2, "tensor": 2}, "deep", 2)),
    "PP": (2, Case({"pipeline": 2, "schedule": "zero-bubble-v"}, "deep", 2)),
    "hybrid": (4, Case({"replicate": 2, "shard": 2}, "deep", 2)),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [("FSDP", "FSDP"), ("FSDP x TP", "PP"), ("PP", "FSDP x TP"), ("hybrid", "FSDP"), ("FSDP", "hybrid")],
)
def test_a_run_continues_in_another_layout(one, other, tmp_path):
    ranks, case = LAYOUTS[one]
    straight = world.run(ranks, resume.save_after_two, Errand(case, tmp_path))
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    ranks, case = LAYOUTS[other]
    resumed = world.run(ranks, resume.load_and_go_on, Errand(case, tmp_path))
    if one == other:
        assert resumed == straight[2:]  # bit for bit
    else:
        assert resumed == pytest.approx(straight[2:], rel=1e-6)


@pytest.mark.parametrize("name", ["deep", "moe-bias"])
def test_a_run_moves_from_one_device_to_many_and_back(name, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    case = Case({"shard": 2}, name)

    def alone() -> NativeEngine:
        return NativeEngine(fresh(name), objective(fresh(name).config), settings(), Machine(micro_batch=16))

    engine = alone()
    straight = resume.follow(engine, name, range(2))["losses"]
    engine.save(one)()
    straight += resume.follow(engine, name, range(2, 5))["losses"]
    moved = world.run(2, resume.load_and_go_on, Errand(case, one))
    assert moved == pytest.approx(straight[2:], rel=1e-6)
    straight = world.run(2, resume.save_after_two, Errand(case, many))
    engine = alone()
    engine.load(many)
    assert resume.follow(engine, name, range(2, 5))["losses"] == pytest.approx(straight[2:], rel=1e-6)


def test_experts_move_between_layouts_too(tmp_path):
    case = Case({"expert": 2, "tensor": 2}, "moe-bias")
    straight = world.run(4, resume.save_after_two, Errand(case, tmp_path))
    resumed = world.run(2, resume.load_and_go_on, Errand(Case({"shard": 2}, "moe-bias"), tmp_path))
    assert resumed == pytest.approx(straight[2:], rel=1e-6)


def test_a_checkpoint_without_a_rank_is_damaged_and_changes_nothing(tmp_path):
    ranks, case = LAYOUTS["FSDP"]
    world.run(ranks, resume.save_after_two, Errand(case, tmp_path))
    second = sorted(tmp_path.iterdir())[1]
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])
    assert world.run(ranks, resume.load_damaged, Errand(case, tmp_path)) == ("Damaged", True)
    second.unlink()
    assert world.run(ranks, resume.load_damaged, Errand(case, tmp_path)) == ("Damaged", True)
    second.write_bytes(whole)
    for model in ("odd", "llama"):  # other shapes; fewer blocks of the same shapes
        other = Errand(Case({"shard": 2}, model), tmp_path)
        assert world.run(ranks, resume.load_damaged, other) == ("UserError", True)


@pytest.mark.parametrize(
    ("ranks", "layout", "name"),
    [
        (4, {"shard": 2, "tensor": 2}, "gemma"),
        (4, {"pipeline": 2, "shard": 2}, "deep"),
        (2, {"expert": 2}, "moe-bias"),
    ],
)
def test_the_whole_model_comes_out(ranks, layout, name, tmp_path):
    case = Case(layout, name, 2 if "pipeline" in layout else None)
    world.run(ranks, resume.leave_whole, Errand(case, tmp_path))
    engine = NativeEngine(fresh(name), objective(fresh(name).config), settings(), Machine(micro_batch=16))
    for step in range(5):
        engine.accumulate(resume.batch(name, step))
        engine.update(1.0)
    mine, theirs = load_model(tmp_path).state_dict(), engine.trained().state_dict()
    assert mine.keys() == theirs.keys()
    for key, weight in theirs.items():
        torch.testing.assert_close(mine[key], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, {"shard": 2}),
        (4, {"tensor": 2}),
        (2, {"context": 2}),
        (2, {"pipeline": 2}),
        (4, {"pipeline": 2, "schedule": "zero-bubble-v"}),
    ],
    ids=str,
)
def test_the_model_answers_whole_in_evaluation(ranks, layout):
    case = Case(layout, "deep", 2)
    found = world.run(ranks, resume.answer, case)
    engine = NativeEngine(fresh("deep"), objective(fresh("deep").config), settings(), Machine(micro_batch=16))
    tokens = resume.batch("deep", 0)["tokens"][:, :13]
    for when in ("before", "after"):
        with engine.evaluating() as model, torch.no_grad():
            logits = model(tokens).logits.numpy()
            np.testing.assert_allclose(found[f"logits, {when}"], logits, atol=2e-4)
            np.testing.assert_allclose(found[f"hidden, {when}"], logits[:, -2:], atol=2e-4)
            assert found[f"loss, {when}"] == pytest.approx(float(model(tokens, tokens).loss), rel=1e-4)
        losses = resume.follow(engine, "deep", range(1))["losses"]
        assert found[f"step, {when}"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(
    ("errand", "words"),
    [
        (resume.differ_in_seed, "rank 1 has another initial weights"),
        (resume.differ_in_recipe, "learning_rate = 0.005, and there 0.001"),
        (resume.differ_in_data, "different data"),
    ],
)
def test_ranks_that_were_given_different_runs_all_end_with_one_error(errand, words):
    assert words in world.run(2, errand, Case({"tensor": 2}))


@pytest.mark.parametrize("knobs", [{"precision": "float8"}, {"optimizer_state": "float8"}], ids=str)
def test_what_many_devices_do_not_do_is_refused_and_not_left_out(knobs):
    with pytest.raises(UserError, match=rf"train\.{next(iter(knobs))} = .* on several devices"):
        refuse(settings(**knobs))
    refuse(settings())


@pytest.mark.parametrize("kind", ["ema", "tail"])
@pytest.mark.parametrize(
    ("ranks", "layout", "name"),
    [(4, {"shard": 2, "tensor": 2}, "llama"), (2, {"pipeline": 2}, "deep")],
    ids=str,
)
def test_averages_are_kept_in_pieces_answer_whole_and_are_saved(ranks, layout, name, kind, tmp_path):
    knobs = {"average": kind, "average_fraction": 0.6}
    case = Case(layout, name, 2 if "pipeline" in layout else None, train=tuple(knobs.items()))
    found = world.run(ranks, resume.averaged, Errand(case, tmp_path))
    engine = NativeEngine(
        fresh(name), objective(fresh(name).config), settings(**knobs), Machine(micro_batch=16)
    )
    resume.follow(engine, name, range(3))
    np.testing.assert_allclose(found["said"], resume._said(engine, case), atol=2e-4)
    np.testing.assert_array_equal(found["said again"], found["said"])
    assert found["loss"][0] == found["loss"][1]
    resume.follow(engine, name, range(3, 4))
    np.testing.assert_allclose(found["said later"], resume._said(engine, case), atol=2e-4)
    for key, weight in engine.trained().state_dict().items():
        np.testing.assert_allclose(found["model"][key], weight.numpy(), rtol=1e-3, atol=1e-4)


def test_copies_of_a_weight_are_rounded_alike():
    """Ranks draw differently in a step; a weight that two of them have must not become two."""
    case = Case({"replicate": 2, "tensor": 2}, train=(("precision", "bfloat16-pure"),))
    found = world.run(4, resume.round_by_chance, case)
    assert found["different"] == 1
    assert found["losses"] == pytest.approx(alone("llama", case.settings)["losses"][:3], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["interleaved-zero-bubble", "zero-bubble-v", "dualpipe-v"])
def test_what_is_refused_is_wrong(schedule):
    """Late weight gradients and dropped weights. When this fails, PyTorch is mended and the refusal can go."""
    case = Case({"pipeline": 2, "shard": 2, "schedule": schedule, "reshard": True}, "deep", 2)
    found = differences(case, world.run(4, resume.spoiled, case))
    assert found["gradient"] > 0.1
