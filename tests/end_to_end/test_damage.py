"""Single changed bits in the files of a run: `verify` finds each, and no command uses the file without a word.

pytest tests/end_to_end/test_damage.py -m slow -s      prints the table of 1,000 changes
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import groundup
from groundup import pipeline
from groundup.artifacts.directory import open_partial
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import MANIFEST_FILE
from groundup.artifacts.progress import Progress
from groundup.artifacts.run_record import RECORD_FILE, verify_run
from groundup.interop.adapters import load_adapter
from groundup.model import load_model
from groundup.recipe import ModelConfig, Recipe, load_recipe
from groundup.report.run_data import collect_run
from groundup.stages import STAGES
from groundup.train import NEXT_TOKEN, NativeEngine, checkpoints, training_loop
from groundup.train.jsonl_log import JsonlLog

MODEL_FOLDERS = ("04-base", "06-chat", "09-quantized", "10-export")
MACHINE = Machine(device="cpu", threads=1, trackers=(), checkpoint_every_seconds=0.0)


class Lines(Progress):
    """Remembers the lines that stay."""

    def __init__(self) -> None:
        self.text = ""

    def log(self, text: str) -> None:
        self.text += text + "\n"


@contextmanager
def changed_bit(path: Path, chooser: random.Random) -> Iterator[None]:
    """The file with one bit changed; afterwards as it was."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[chooser.randrange(len(changed))] ^= 1 << chooser.randrange(8)
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(content)


def finished_files(run: Path) -> list[Path]:
    """All files of a finished run that are not empty."""
    return sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)


def uses(path: Path, run: Path, recipe: Recipe) -> dict[str, Callable[[], object]]:
    """Commands that would use the file `path` of a finished run."""
    commands: dict[str, Callable[[], object]] = {}
    top = path.relative_to(run).parts[0]
    stage = next((stage for stage in STAGES if stage.folder == top), None)
    if stage is None or path.name == MANIFEST_FILE or (path.suffix == ".jsonl" and stage.name != "report"):
        commands["report"] = lambda: collect_run(run)
    if top == RECORD_FILE:
        commands["run"] = lambda: list(pipeline.run(recipe, run, MACHINE))
    later = [each for each in STAGES if (run / each.folder).exists() and not each.checks_inputs]
    consumer = next((each for each in later if stage and stage.name in each.inputs), None)
    if consumer is not None:
        commands["run --from"] = lambda: list(pipeline.run(recipe, run, MACHINE, from_stage=consumer.name))
    if top in MODEL_FOLDERS and path.parent == run / top:
        commands["open_model"] = lambda: groundup.open_model(run / top, device="cpu")
    if path.parent.name == "adapter":
        commands["load_adapter"] = lambda: load_adapter(load_model(run / "04-base"), path.parent)
    return commands


def verify(run: Path) -> list[str]:
    return verify_run(run, [run / stage.folder for stage in STAGES])


def change_finished_files(run: Path, recipe: Recipe, count: int, seed: int) -> Counter[tuple[str, str]]:
    """Change one bit of a file `count` times; counts (kind of file, outcome)."""
    chooser, table = random.Random(seed), Counter[tuple[str, str]]()
    files = finished_files(run)
    for index in range(count):
        path = files[index] if index < len(files) else chooser.choice(files)
        name = path.relative_to(run).as_posix()
        kind = f"{name.partition('/')[0]}/{path.name if path.name == MANIFEST_FILE else '*'}" if "/" in name else name
        with changed_bit(path, chooser):
            table[kind, "changed"] += 1
            table[kind, "found by verify"] += any(name in line for line in verify(run))
            commands = uses(path, run, recipe)
            table[kind, "refused"] += bool(commands) and all(_is_refused(use, name) for use in commands.values())
            table[kind, "read by no command"] += not commands
    return table


def _is_refused(use: Callable[[], object], name: str) -> bool:
    """Whether `use` ends with an error that names the file; of a manifest, its stage: a changed fingerprint makes it stale."""
    try:
        use()
    except UserError as error:
        return name.removesuffix(f"/{MANIFEST_FILE}") in error.message
    return False


class Stopped(Exception):
    """In place of a kill."""


def unfinished_training(run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stop the training of `run` after 30 steps; returns the partial folder."""
    for stage in STAGES[3:]:
        shutil.rmtree(run / stage.folder, ignore_errors=True)

    def stop(step: int, *arguments: object) -> float:
        if step == 30:
            raise Stopped
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "lr_multiplier", stop)
        with pytest.raises(Stopped):
            list(pipeline.run(recipe, run, MACHINE, until_stage="base"))
    return run / "04-base.partial"


def change_unfinished_training(partial: Path, count: int, seed: int) -> Counter[tuple[str, str]]:
    """Change one bit of a checkpoint, of a record file or of the fingerprint `count` times."""
    chooser, table = random.Random(seed), Counter[tuple[str, str]]()
    folder = partial / "checkpoints"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files += [partial / ".fingerprint", *(path for path in partial.glob("*.jsonl") if path.stat().st_size)]
    recipe = pipeline.plan_run(pipeline.read_recipe(partial.parent), partial.parent, MACHINE).recipe
    (fingerprint,) = {each.fingerprint for each in pipeline.resolve_stage_runs(recipe, partial.parent, MACHINE, "base")
                      if each.stage.name == "base"}  # fmt: skip
    assert recipe.train is not None
    older, newest = checkpoints.list_checkpoints(folder)
    for index in range(count):
        path = files[index] if index < len(files) else chooser.choice(files)
        kind = f"04-base.partial/{'checkpoints/' if path.parent.parent == folder else ''}{path.name}"
        progress = Lines()
        with changed_bit(path, chooser):
            table[kind, "changed"] += 1
            if path.name == ".fingerprint":
                table[kind, "refused"] += _is_refused(
                    lambda: open_partial(partial.with_suffix(""), fingerprint), path.name
                )
            elif path.suffix == ".jsonl":
                JsonlLog(path, progress.log)
                table[kind, "named, the rest used"] += f"{path}, line" in progress.text
            else:
                model = groundup.build_model(ModelConfig(**recipe.model.model_dump(exclude_none=True)))
                engine = NativeEngine(model, NEXT_TOKEN, recipe.train, MACHINE)
                manager = checkpoints.CheckpointManager(folder, engine, replace(MACHINE, progress=progress))
                step = manager.restore()["step"]
                is_newest = path.parent == newest
                expected = older if is_newest else newest
                named = f"damaged checkpoint, so an older one is used: {newest}" in progress.text
                table[kind, "named, the rest used"] += step == int(expected.name[5:]) and named == is_newest
    return table


def print_table(table: Counter[tuple[str, str]]) -> None:
    columns = ("changed", "found by verify", "refused", "named, the rest used", "read by no command")
    kinds = sorted({kind for kind, _ in table})
    print("\n| file | " + " | ".join(columns) + " |\n|---" + "|---:" * len(columns) + "|")
    for kind in kinds:
        print(f"| {kind} | " + " | ".join(str(table[kind, column]) for column in columns) + " |")
    print("| all | " + " | ".join(str(sum(table[kind, column] for kind in kinds)) for column in columns) + " |")


@pytest.mark.parametrize(
    ("finished", "unfinished"),
    [
        pytest.param(60, 12, id="72"),
        pytest.param(850, 150, id="1000", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_no_changed_bit_is_used_in_silence(finished, unfinished, tiny_recipe, tiny_run, tmp_path, monkeypatch):
    run, recipe = tmp_path / "tiny", load_recipe(tiny_recipe)
    shutil.copytree(tiny_run, run)

    def build(*arguments: object) -> None:
        raise AssertionError("a stage is built on a damaged one")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "build_stage", build)
        table = change_finished_files(run, recipe, finished, seed=1)
    print_table(table)
    assert verify(run) == [], "each file is as it was"
    table += change_unfinished_training(unfinished_training(run, recipe, monkeypatch), unfinished, seed=2)
    print_table(table)
    for kind in {kind for kind, _ in table}:
        changed = table[kind, "changed"]
        if not kind.startswith("04-base.partial"):
            assert table[kind, "found by verify"] == changed, kind
        outcomes = ("refused", "named, the rest used", "read by no command")
        assert sum(table[kind, outcome] for outcome in outcomes) == changed, kind
