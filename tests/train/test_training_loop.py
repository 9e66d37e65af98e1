"""Training loop: micro-batches, resuming, loss spikes, signals, early stopping, checkpoints."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from groundup.artifacts.directory import open_partial, promote
from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress
from groundup.recipe.train_config import TrainConfig
from groundup.train import NativeEngine, Objective, training_loop
from groundup.train.checkpoints import discard_checkpoints, list_checkpoints
from groundup.train.device import deterministic_algorithms
from groundup.train.objectives import IGNORE_INDEX, count_labels, count_shifted
from groundup.train.throughput import NON_REPRODUCIBLE_FIELDS


class TinyModel(nn.Module):
    """Predicts the next token from the one before it."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(16, 8)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)

    def forward(self, tokens):
        return self.head(torch.tanh(self.inner(self.embedding(tokens))))


def mean_loss(model, batch):
    logits = model(batch["tokens"])[:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(logits.float(), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX)


def train(model, batches, loss, knobs, folder, machine, eval_fn=None):
    engine = NativeEngine(model, Objective(loss, count_shifted), knobs, machine)
    return training_loop.run_training_loop(engine, batches, knobs, folder, machine, eval_fn=eval_fn)


def repeatable(records):
    return [{key: value for key, value in record.items() if key not in NON_REPRODUCIBLE_FIELDS} for record in records]


class RandomBatches:
    """Sequences with unequal numbers of predicted positions, a pure function of the step."""

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 16, (6, 12), generator=generator)
        labels = tokens.clone()
        for row in range(6):
            labels[row, : 2 * row] = IGNORE_INDEX
        return {"tokens": tokens, "labels": labels}


def settings(**knobs):
    given = {"steps": 30, "learning_rate": 0.01, "warmup_steps": 3, "evaluate_every": 10, "precision": "float32"}
    return TrainConfig(**(given | knobs))


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "chosen",
    [
        {"optimizer": "adamw"},
        {"optimizer": "muon"},
        {"optimizer": "adamw", "precision": "bfloat16"},
        {"optimizer": "muon", "precision": "bfloat16"},
        {"optimizer_state_dtype": "float8"},
        {"precision": "bfloat16-pure"},
        {"weight_averaging": "tail"},
        {"weight_averaging": "ema", "optimizer_state_dtype": "float8", "precision": "bfloat16-pure"},
    ],
    ids=lambda knobs: ", ".join(knobs.values()),
)
def test_resume_equals_straight_run(tmp_path, chosen):
    knobs = settings(**chosen)
    machine = Machine(checkpoint_every_seconds=0.0)
    straight = TinyModel()
    full = train(
        straight, RandomBatches(), mean_loss, knobs, tmp_path / "straight", machine, eval_fn=lambda m: {"x": 1.0}
    )

    class Killed(Exception):
        pass

    class Killer(RandomBatches):
        def __init__(self, at):
            self.at = at

        def batch(self, step):
            if step == self.at:
                raise Killed
            return super().batch(step)

    for number, at in enumerate((7, 8, 20, 29)):  # after the first start the weights come from the checkpoint
        with pytest.raises(Killed):
            train(
                TinyModel(seed=number),
                Killer(at),
                mean_loss,
                knobs,
                tmp_path / "cut",
                machine,
                eval_fn=lambda m: {"x": 1.0},
            )
    resumed = TinyModel(seed=99)
    rest = train(resumed, RandomBatches(), mean_loss, knobs, tmp_path / "cut", machine, eval_fn=lambda m: {"x": 1.0})
    assert same_weights(straight, resumed)
    assert repeatable(rest.records) == repeatable(full.records)
    assert rest.evaluations == full.evaluations
    assert [p["step"] for p in full.evaluations] == [10, 20, 30]
    assert list(read_jsonl(tmp_path / "cut" / "steps.jsonl", checksum=True)) == rest.records


def test_a_kill_between_checkpoint_and_evaluation_loses_no_evaluation(tmp_path):
    def failing(model):
        raise RuntimeError("killed in the probe")

    machine = Machine(checkpoint_every_seconds=0.0)
    with pytest.raises(RuntimeError, match="killed"):
        train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, machine, eval_fn=failing)
    result = train(
        TinyModel(5), RandomBatches(), mean_loss, settings(), tmp_path, machine, eval_fn=lambda m: {"x": 1.0}
    )
    assert [p["step"] for p in result.evaluations] == [10, 20, 30]


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_micro_batch_size_changes_only_rounding(tmp_path, micro_batch):
    full, split = TinyModel(), TinyModel()
    a = train(full, RandomBatches(), mean_loss, settings(), tmp_path / "a", Machine())
    b = train(split, RandomBatches(), mean_loss, settings(), tmp_path / "b", Machine(micro_batch_size=micro_batch))
    for x, y in zip(a.records, b.records, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=2e-5)
    for x, y in zip(full.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_training_reduces_the_loss():
    class Counting:
        def batch(self, step):
            tokens = (torch.arange(12)[None, :] + torch.arange(6)[:, None]) % 16
            return {"tokens": tokens, "labels": tokens}

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        knobs = settings(steps=200, learning_rate=0.05)
        records = train(TinyModel(), Counting(), mean_loss, knobs, Path(folder), Machine()).records
    assert records[0]["loss"] > 2.5
    assert records[-1]["loss"] < 0.05


class Poisoned(RandomBatches):
    """One batch has a NaN in it."""

    def __init__(self, at, value=float("nan")):
        self.at, self.value = at, value

    def batch(self, step):
        return {**super().batch(step), "poison": torch.full((6, 1), self.value if step == self.at else 1.0)}


def poisoned_loss(model, batch):
    return mean_loss(model, batch) * batch["poison"].mean()


def test_loss_that_is_not_finite_saves_batch_and_weights(tmp_path):
    machine = Machine(checkpoint_every_seconds=0.0)
    with pytest.raises(UserError, match="step 12, batch 12: loss nan"):
        train(TinyModel(), Poisoned(12), poisoned_loss, settings(), tmp_path, machine)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000011", "step-00000012"]
    folder = tmp_path / "checkpoints" / "emergency-step-00000012"
    assert load_file(folder / "batch-0.safetensors")["poison"].isnan().all()
    before, saved = (
        load_file(path / "rank-00000-of-00001.safetensors")
        for path in (tmp_path / "checkpoints" / "step-00000012", folder)
    )
    assert all(torch.equal(before[name], saved[name]) for name in before)
    # Once the data is mended the run goes on, and ends as if nothing had been.
    repaired, straight = TinyModel(7), TinyModel()
    train(repaired, Poisoned(-1), poisoned_loss, settings(), tmp_path, machine)
    train(straight, RandomBatches(), mean_loss, settings(), tmp_path / "straight", machine)
    assert same_weights(repaired, straight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1000.0])
def test_a_spike_is_skipped_and_logged(tmp_path, value):
    knobs = settings(on_spike="skip", steps=40)
    model, progress = TinyModel(), RecordingProgress()
    records = train(model, Poisoned(25, value), poisoned_loss, knobs, tmp_path, Machine(progress=progress)).records
    assert [record["step"] for record in records if "skipped" in record] == [25]
    assert len(records) == 40
    assert "batch 25 skipped" in progress.text
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_a_spike_rolls_back_over_the_batches_since_the_checkpoint(tmp_path):
    knobs = settings(on_spike="rollback", steps=40)
    observed = []

    class Watched(Poisoned):
        def batch(self, step):
            observed.append(step)
            return super().batch(step)

    progress = RecordingProgress()
    machine = Machine(progress=progress)
    result = train(
        TinyModel(), Watched(25, 1000.0), poisoned_loss, knobs, tmp_path, machine, eval_fn=lambda m: {"x": 1.0}
    )
    assert observed == [*range(26), *range(26, 46)]  # back to step 20, and on with batch 26
    assert [record["step"] for record in result.records] == list(range(40))
    assert "back to step 20" in progress.text
    assert [probe["step"] for probe in result.evaluations] == [10, 20, 30, 40]
    # A run that is killed after the rollback does not meet the batch again.
    state = json.loads((list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json").read_text())
    assert (state["step"], state["skipped_batches"], state["rollbacks"]) == (40, 6, 1)


def test_too_many_skips_in_a_row_abort(tmp_path):
    class AllBad(RandomBatches):
        def batch(self, step):
            return {**super().batch(step), "poison": torch.full((6, 1), float("nan"))}

    with pytest.raises(UserError, match="step 20, batch 20: loss nan"):
        train(TinyModel(), AllBad(), poisoned_loss, settings(on_spike="skip", steps=50), tmp_path, Machine())


class RecordingProgress(Progress):
    """Remembers the lines that stay."""

    def __init__(self):
        self.text = ""

    def log(self, text):
        self.text += text + "\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_saves_and_stops_after_the_step(tmp_path, name):
    class Asked(RandomBatches):
        def batch(self, step):
            if step == 13:
                os.kill(os.getpid(), getattr(signal, name))
            return super().batch(step)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(TinyModel(), Asked(), mean_loss, settings(), tmp_path, Machine())
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000014"]
    rest, straight = TinyModel(3), TinyModel()
    train(rest, RandomBatches(), mean_loss, settings(), tmp_path, Machine())
    train(straight, RandomBatches(), mean_loss, settings(), tmp_path / "straight", Machine())
    assert same_weights(rest, straight)


def test_early_stopping(tmp_path):
    scores = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    knobs = settings(early_stopping_patience=2, steps=100)
    result = train(
        TinyModel(), RandomBatches(), mean_loss, knobs, tmp_path, Machine(), eval_fn=lambda m: {"x": next(scores)}
    )
    assert len(result.records) == 40
    again = train(
        TinyModel(), RandomBatches(), mean_loss, knobs, tmp_path, Machine(), eval_fn=lambda m: {"x": next(scores)}
    )
    assert len(again.records) == 40, "the end of a finished run is its end"


@pytest.mark.parametrize("stop", [None, 25, 37, 48])
def test_the_weights_of_the_best_evaluation_are_the_result(tmp_path, stop):
    """Killed at any step, and the machine keeps one checkpoint: the same bits."""
    scores = {10: 3.0, 20: 2.0, 30: 2.5, 40: 2.1, 50: 2.2}
    machine = Machine(checkpoint_every_seconds=0.0, keep_checkpoints=1)
    knobs = settings(keep_best_weights=True, early_stopping_patience=3, steps=100)
    seen = iter(scores.values())

    class Killed(RandomBatches):
        def batch(self, step):
            if step == stop:
                raise KeyboardInterrupt
            return super().batch(step)

    def run(batches):
        model = TinyModel()
        return model, train(
            model, batches, mean_loss, knobs, tmp_path / "a", machine, eval_fn=lambda m: {"x": next(seen)}
        )

    if stop:
        with pytest.raises(KeyboardInterrupt):
            run(Killed())
    best, result = run(RandomBatches())
    assert (result.kept_step, result.stopped_early, len(result.records)) == (20, True, 50)
    stop, expected = 20, TinyModel()
    with pytest.raises(KeyboardInterrupt):
        train(expected, Killed(), mean_loss, knobs, tmp_path / "b", machine, eval_fn=lambda m: {"x": 1.0})
    assert same_weights(best, expected)
    again, result = run(RandomBatches())
    assert same_weights(again, expected), "the result of a finished run stays"
    assert result.kept_step == 20


def test_without_its_checkpoint_the_best_weights_give_way_to_the_last(tmp_path):
    scores = iter([1.0, 2.0, 3.0])
    progress = RecordingProgress()
    knobs = settings(keep_best_weights=True)

    def evaluate(model):
        value = next(scores)
        if value == 3.0:
            shutil.rmtree(tmp_path / "checkpoints" / "step-00000010")
        return {"x": value}

    machine = Machine(progress=progress)
    result = train(TinyModel(), RandomBatches(), mean_loss, knobs, tmp_path, machine, eval_fn=evaluate)
    assert (result.kept_step, result.stopped_early) == (30, False)
    assert "the checkpoint of step 10 cannot be read" in progress.text


def test_checkpoints_of_a_complete_stage_are_removed_after_the_rename(tmp_path):
    machine = Machine(checkpoint_every_seconds=0.0, keep_checkpoints=3, keep_checkpoint_every=10)
    train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, machine)
    folder = tmp_path / "checkpoints"
    assert [int(path.name[5:]) for path in list_checkpoints(folder)] == [10, 20, 28, 29, 30]
    for every, kept in ((10, [10, 20, 30]), (None, [])):
        partial, final = tmp_path / f"{every}.partial", tmp_path / f"{every}"
        open_partial(final, "f" * 64)
        shutil.copytree(folder, partial / "checkpoints")
        discard_checkpoints(partial, every)
        assert len(list_checkpoints(partial / "checkpoints")) == 5, "a kill now loses nothing"
        promote(partial, final)
        assert [int(path.name[5:]) for path in list_checkpoints(final / "checkpoints")] == kept
        assert (final / "checkpoints").exists() == bool(kept)


def _cut(content: bytes) -> bytes:
    return content[:100]


def _flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGE = {
    "cut weights": ("rank-00000-of-00001.safetensors", _cut),
    "one bit of the weights": ("rank-00000-of-00001.safetensors", _flip_last_bit),
    "one bit of the hashes": ("hashes.json", lambda content: content.replace(b': "', b': "0', 1)),
    "another step": ("state.json", lambda content: content.replace(b'"step": 10', b'"step": 30')),
    "wrong types": ("state.json", lambda content: b'{"step": "10", "losses": 3, "sha256": []}'),
    "a list": ("state.json", lambda content: b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(tmp_path, damage):
    machine = Machine(checkpoint_every_seconds=0.0)
    straight = TinyModel()
    train(straight, RandomBatches(), mean_loss, settings(), tmp_path / "a", machine)
    with pytest.raises(RuntimeError):
        train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path / "b", machine, eval_fn=_fail)
    name, change = DAMAGE[damage]
    newest = list_checkpoints(tmp_path / "b" / "checkpoints")[-1]
    content = (newest / name).read_bytes()
    assert change(content) != content
    (newest / name).write_bytes(change(content))
    resumed, progress = TinyModel(3), RecordingProgress()
    train(resumed, RandomBatches(), mean_loss, settings(), tmp_path / "b", Machine(progress=progress))
    assert same_weights(straight, resumed)
    assert f"damaged checkpoint, so an older one is used: {newest}" in progress.text


def test_a_run_of_which_all_checkpoints_are_damaged_stops(tmp_path):
    machine = Machine(checkpoint_every_seconds=0.0)
    with pytest.raises(RuntimeError):
        train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, machine, eval_fn=_fail)
    for path in tmp_path.glob("checkpoints/step-*/rank-*"):
        path.write_bytes(_flip_last_bit(path.read_bytes()))
    with pytest.raises(UserError, match=r"all 2 checkpoints in .* are damaged: .*step-00000010/rank-00000"):
        train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, Machine())


def test_a_damaged_record_is_named_and_the_others_kept(tmp_path):
    """A line of garbage once dropped all records after it, and a changed digit was believed."""
    machine = Machine(checkpoint_every_seconds=0.0)
    with pytest.raises(RuntimeError):
        train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, machine, eval_fn=_fail)
    path = tmp_path / "steps.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = "\x00garbage\n"
    lines[5] = lines[5].replace('"loss": 2', '"loss": 1')
    path.write_text("".join(lines))
    progress = RecordingProgress()
    result = train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, Machine(progress=progress))
    assert [record["step"] for record in result.records] == [0, 1, 2, 4, *range(6, 30)]
    assert all(f"{path}, line {number}: damaged" in progress.text for number in (4, 6))


def _fail(model):
    raise RuntimeError("stop here")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train(TinyModel(), RandomBatches(), mean_loss, settings(), tmp_path, Machine())
    other = TinyModel()
    other.inner = nn.Linear(8, 8, bias=False)
    with pytest.raises(UserError, match="another model"):
        train(other, RandomBatches(), mean_loss, settings(), tmp_path, dataclasses.replace(Machine()))


def test_target_counts():
    batch = {"labels": torch.tensor([[5, 1, 2], [5, IGNORE_INDEX, 2]])}
    assert count_shifted(batch) == 3
    assert count_labels(batch) == 5


def test_deterministic_algorithms_are_on_during_the_context_only():
    for kind, enabled, observed in (("cuda", True, True), ("cuda", False, False), ("cpu", True, False)):
        with deterministic_algorithms(torch.device(kind), enabled):
            assert torch.are_deterministic_algorithms_enabled() == observed
        assert not torch.are_deterministic_algorithms_enabled()
