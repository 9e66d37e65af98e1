"""Functions that ranks run in test_engine.py and test_other_engines.py."""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from equivalence import ENGINES, Case, batch, build, build_toy_model, objective, run_steps
from torch.distributed.tensor import DTensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.model import save_model
from groundup.parallel import LayoutConfig, all_reduce_partial_grads, build_mesh, clip_grad_norm, parallelize
from groundup.train.engines.engine import CorruptCheckpoint


@dataclass(frozen=True)
class CheckpointCase:
    case: Case
    folder: Path


def save_after_two(errand: CheckpointCase) -> list[float]:
    """Two steps, a checkpoint, and three more steps while it is written. Returns all losses."""
    engine = build(errand.case)
    losses = run_steps(engine, errand.case.model, range(2))["losses"]
    write = engine.save(errand.folder)
    losses += run_steps(engine, errand.case.model, range(2, 5))["losses"]
    write()
    return losses


def load_and_continue(errand: CheckpointCase) -> list[float]:
    engine = build(errand.case)
    engine.load(errand.folder)
    return run_steps(engine, errand.case.model, range(2, 5))["losses"]


def load_corrupt(errand: CheckpointCase) -> tuple[str, bool]:
    engine = build(errand.case)
    before = [weight.detach().clone() for weight in engine.parameters]
    try:
        engine.load(errand.folder)
        answer = "read it"
    except (CorruptCheckpoint, UserError) as error:
        answer = type(error).__name__
    same = all(torch.equal(a.to_local() if hasattr(a, "to_local") else a, b.to_local() if hasattr(b, "to_local") else b)
               for a, b in zip(engine.parameters, before, strict=True))  # fmt: skip
    return answer, same


def save_full_model(errand: CheckpointCase) -> None:
    """Five steps, then save the full model."""
    engine = build(errand.case)
    run_steps(engine, errand.case.model)
    model = engine.finalize()
    if engine.is_main:
        save_model(model, errand.folder)


def evaluate_full_model(case: Case) -> dict[str, Any]:
    """Outputs of the full model in evaluation before and after a step, and the loss of the next step."""
    engine = build(case)
    tokens = batch(case.model, 0)["tokens"][:, :13]  # a length that no axis divides
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        with engine.eval_model() as model, torch.no_grad():
            hidden = model.hidden_states(tokens)
            found[f"hidden, {when}"] = model.logits(hidden[:, -2:]).numpy()
            found[f"logits, {when}"] = model(tokens).logits.numpy()
            found[f"loss, {when}"] = float(model(tokens, tokens).loss)
        found[f"step, {when}"] = run_steps(engine, case.model, range(1))["losses"]
    return found


def evaluate_averages(errand: CheckpointCase) -> dict[str, Any]:
    """Three steps; logits of the averaged model before and after a resume, and the final model."""
    engine = build(errand.case)
    run_steps(engine, errand.case.model, range(3))
    engine.save(errand.folder)()
    found = {"logits": _logits(engine, errand.case)}
    again = build(errand.case)
    again.load(errand.folder)
    found["resumed logits"] = _logits(again, errand.case)
    found["loss"] = [run_steps(each, errand.case.model, range(3, 4))["losses"] for each in (engine, again)]
    found["later logits"] = _logits(again, errand.case)
    model = again.finalize()
    found["model"] = {name: weight.numpy() for name, weight in model.state_dict().items()} if again.is_main else {}
    return found


def _logits(engine: Any, case: Case) -> Any:
    with engine.eval_model() as model, torch.no_grad():
        return model(batch(case.model, 0)["tokens"]).logits.numpy()


def round_stochastically(case: Case) -> dict[str, Any]:
    """Three steps with stochastic rounding, and the number of different full models over the ranks."""
    engine = build(case)
    torch.manual_seed(dist.get_rank())  # as the loop does
    losses = run_steps(engine, case.model, range(3))["losses"]
    full = [weight.full_tensor() if isinstance(weight, DTensor) else weight for weight in engine.parameters]
    digest = hashlib.sha256(b"".join(w.detach().float().numpy().tobytes() for w in full)).hexdigest()
    messages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, digest)
    return {"losses": losses, "different": len(set(messages))}


def skip_batches(case: Case) -> dict[str, Any]:
    """Three steps; before the second, one gradient is dropped and another is infinite. Returns losses and that norm."""
    engine = build(case)
    losses = run_steps(engine, case.model, range(1))["losses"]
    rows = 16 // engine.data_world_size
    rows_of_rank = slice(engine.data_rank * rows, (engine.data_rank + 1) * rows)
    part = {name: value[rows_of_rank] for name, value in batch(case.model, 4).items()}
    engine.forward_backward(part)
    engine.zero_grad()
    objective = engine.objective
    if case.settings.engine == "megatron":  # whose model makes the losses
        original = engine._adapter.losses
        engine._adapter.losses = lambda *inputs: original(*inputs) * math.inf
    else:
        engine.objective = replace(objective, loss=lambda model, batch: objective.loss(model, batch) * math.inf)
    engine.forward_backward(part)
    norm = engine.optimizer_step(1.0)
    engine.objective = objective
    if case.settings.engine == "megatron":
        del engine._adapter.losses
    losses += run_steps(engine, case.model, range(1, 3))["losses"]
    return {"norm": norm, "losses": losses}


def differ_in_seed(case: Case) -> str:
    model = build_toy_model(case.model)
    if dist.get_rank() == 1:
        with torch.no_grad():
            list(model.parameters())[-1].flatten()[-1].add_(1e-3)
    return _error_of(lambda: _build(case, model))


def differ_in_recipe(case: Case) -> str:
    train = case.settings.model_copy(update={"learning_rate": 5e-3}) if dist.get_rank() == 1 else case.settings
    return _error_of(lambda: _build(case, build_toy_model(case.model), train))


def differ_in_data(case: Case) -> str:
    engine = build(case)
    part = batch(case.model, dist.get_rank())
    return _error_of(lambda: engine.forward_backward(part))


def _build(case: Case, model: Any, train: Any = None) -> Any:
    machine = Machine(micro_batch_size=16)
    return ENGINES[case.settings.engine]()(
        model, objective(model.config), train or case.settings, machine, LayoutConfig(**case.layout)
    )


def _error_of(call: Any) -> str:
    """The error message, which must be the same on every rank: otherwise ranks would wait for each other."""
    try:
        call()
        message = "none"
    except UserError as error:
        message = str(error)
    messages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    assert len(set(messages)) == 1, messages
    return message


def run_unsupported_layout(case: Case) -> dict[str, Any]:
    """Train with a layout that plan/layout/parallel_layout.py rejects."""
    from equivalence import run_rank

    from groundup.plan.layout import parallel_layout

    parallel_layout._check_pipeline = lambda *_: None
    return run_rank(replace(case))


def train_without_recipe(layout: dict[str, Any]) -> float:
    """The example of `parallelize`: one backward pass. Returns the gradient norm."""
    mesh = build_mesh(LayoutConfig(**layout), torch.device("cpu"))
    parallel = parallelize(build_toy_model("llama"), mesh)
    (model,) = parallel.model_parts
    rows = 16 // mesh.data_world_size
    tokens = batch("llama", 0)["tokens"][mesh.data_rank * rows : (mesh.data_rank + 1) * rows]
    (model(tokens, tokens).loss / mesh.data_world_size).backward()
    all_reduce_partial_grads(parallel.partial_grad_parameters, mesh)
    return clip_grad_norm(model.parameters(), 1.0, mesh).item()
