"""What ranks do in the tests of the engine's state: save, continue elsewhere, answer, refuse."""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sameness import ENGINES, Case, batch, build, follow, fresh, objective
from torch.distributed.tensor import DTensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import save_model
from groundup.recipe.layout import Layout
from groundup.train.engines.engine import Damaged


@dataclass(frozen=True)
class Errand:
    case: Case
    folder: Path


def save_after_two(errand: Errand) -> list[float]:
    """Two steps, a checkpoint, and three steps more while it is written. The losses of all five."""
    engine = build(errand.case)
    losses = follow(engine, errand.case.model, range(2))["losses"]
    write = engine.save(errand.folder)
    losses += follow(engine, errand.case.model, range(2, 5))["losses"]
    write()
    return losses


def load_and_go_on(errand: Errand) -> list[float]:
    engine = build(errand.case)
    engine.load(errand.folder)
    return follow(engine, errand.case.model, range(2, 5))["losses"]


def load_damaged(errand: Errand) -> tuple[str, bool]:
    engine = build(errand.case)
    before = [weight.detach().clone() for weight in engine.parameters]
    try:
        engine.load(errand.folder)
        answer = "read it"
    except (Damaged, UserError) as error:
        answer = type(error).__name__
    same = all(torch.equal(a.to_local() if hasattr(a, "to_local") else a, b.to_local() if hasattr(b, "to_local") else b)
               for a, b in zip(engine.parameters, before, strict=True))  # fmt: skip
    return answer, same


def leave_whole(errand: Errand) -> None:
    """Five steps, then the whole model in a folder."""
    engine = build(errand.case)
    follow(engine, errand.case.model)
    model = engine.trained()
    if engine.main:
        save_model(model, errand.folder)


def answer(case: Case) -> dict[str, Any]:
    """What the whole model says in evaluation, before the first step and after one, and what the next step's loss is."""
    engine = build(case)
    tokens = batch(case.model, 0)["tokens"][:, :13]  # a length that no axis divides
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        with engine.evaluating() as model, torch.no_grad():
            hidden = model.hidden_states(tokens)
            found[f"hidden, {when}"] = model.logits(hidden[:, -2:]).numpy()
            found[f"logits, {when}"] = model(tokens).logits.numpy()
            found[f"loss, {when}"] = float(model(tokens, tokens).loss)
        found[f"step, {when}"] = follow(engine, case.model, range(1))["losses"]
    return found


def averaged(errand: Errand) -> dict[str, Any]:
    """Three steps; what the averaged model says, before and after a checkpoint was taken up elsewhere, and the model."""
    engine = build(errand.case)
    follow(engine, errand.case.model, range(3))
    engine.save(errand.folder)()
    found = {"said": _said(engine, errand.case)}
    again = build(errand.case)
    again.load(errand.folder)
    found["said again"] = _said(again, errand.case)
    found["loss"] = [follow(each, errand.case.model, range(3, 4))["losses"] for each in (engine, again)]
    found["said later"] = _said(again, errand.case)
    model = again.trained()
    found["model"] = (
        {name: weight.numpy() for name, weight in model.state_dict().items()} if again.main else {}
    )
    return found


def _said(engine: Any, case: Case) -> Any:
    with engine.evaluating() as model, torch.no_grad():
        return model(batch(case.model, 0)["tokens"]).logits.numpy()


def round_by_chance(case: Case) -> dict[str, Any]:
    """Three steps of weights that are rounded by chance: the same whole weights on every rank."""
    engine = build(case)
    torch.manual_seed(dist.get_rank())  # as the loop does
    losses = follow(engine, case.model, range(3))["losses"]
    whole = [weight.full_tensor() if isinstance(weight, DTensor) else weight for weight in engine.parameters]
    digest = hashlib.sha256(b"".join(w.detach().float().numpy().tobytes() for w in whole)).hexdigest()
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, digest)
    return {"losses": losses, "different": len(set(everyone))}


def leave_out(case: Case) -> dict[str, Any]:
    """Three steps; before the second, a batch is discarded and another has an endless gradient. Losses, and that norm."""
    engine = build(case)
    losses = follow(engine, case.model, range(1))["losses"]
    rows = 16 // engine.data_ranks
    mine = slice(engine.data_rank * rows, (engine.data_rank + 1) * rows)
    part = {name: value[mine] for name, value in batch(case.model, 4).items()}
    engine.accumulate(part)
    engine.discard()
    own = engine.objective
    if case.settings.engine == "megatron":  # whose model makes the losses
        plain = engine._view.losses
        engine._view.losses = lambda *inputs: plain(*inputs) * math.inf
    else:
        engine.objective = replace(own, loss=lambda model, batch: own.loss(model, batch) * math.inf)
    engine.accumulate(part)
    norm = engine.update(1.0)
    engine.objective = own
    if case.settings.engine == "megatron":
        del engine._view.losses
    losses += follow(engine, case.model, range(1, 3))["losses"]
    return {"norm": norm, "losses": losses}


def differ_in_seed(case: Case) -> str:
    torch_seed = fresh(case.model)
    if dist.get_rank() == 1:
        with torch.no_grad():
            next(torch_seed.parameters()).add_(1e-3)
    return _error_of(lambda: _build(case, torch_seed))


def differ_in_recipe(case: Case) -> str:
    train = (
        case.settings.model_copy(update={"learning_rate": 5e-3}) if dist.get_rank() == 1 else case.settings
    )
    return _error_of(lambda: _build(case, fresh(case.model), train))


def differ_in_data(case: Case) -> str:
    engine = build(case)
    part = batch(case.model, dist.get_rank())
    return _error_of(lambda: engine.accumulate(part))


def _build(case: Case, model: Any, train: Any = None) -> Any:
    machine = Machine(micro_batch=16)
    return ENGINES[case.settings.engine]()(
        model, objective(model.config), train or case.settings, machine, Layout(**case.layout)
    )


def _error_of(call: Any) -> str:
    """What every rank meets: the same error, or the ranks would wait for each other."""
    try:
        call()
        mine = "none"
    except UserError as error:
        mine = str(error)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    assert len(set(everyone)) == 1, everyone
    return mine


def spoiled(case: Case) -> dict[str, Any]:
    """A layout that the plan refuses, computed all the same."""
    from sameness import together

    from groundup.plan import layout

    layout._check_pipeline = lambda *_: None
    return together(replace(case))
