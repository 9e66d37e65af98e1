"""The pipeline runner: what it builds, what it keeps, what it refuses to overwrite, and how it continues."""

import errno
import json
import os
import shutil
import sys
import types

import pytest

from groundup import pipeline, stage_runs
from groundup.artifacts import directory
from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest, verify_folder
from groundup.artifacts.run_record import verify_run
from groundup.plan import derive
from groundup.plan.checks import engine_support
from groundup.recipe import parse_recipe
from groundup.stages import Stage

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch):
    """Three stages that count their calls: data -> tokenizer -> base."""
    CALLS.clear()
    module = types.ModuleType("toy_stages")

    def stage(name):
        def run(recipe, inputs, out, machine):
            CALLS.append(name)
            (out / "result.txt").write_text(name + "".join(sorted(path.name for path in inputs.values())))
            return {"calls": 1}

        return run

    for name in ("data", "tokenizer", "base"):
        setattr(module, name, stage(name))

    def identity(section, machine):
        if IDENTITY["value"] is None:
            raise UserError("source a: no file matches *.txt")
        return {"content": IDENTITY["value"]}

    module.identity = identity
    monkeypatch.setitem(sys.modules, "toy_stages", module)
    stages = (
        Stage("data", "01-data", "data", "toy_stages:data", extra_sections=("seed",), identity="toy_stages:identity"),
        Stage("tokenizer", "02-tokenizer", "tokenizer", "toy_stages:tokenizer", inputs=("data",)),
        Stage(
            "base", "04-base", "train", "toy_stages:base", extra_sections=("model",), inputs=("tokenizer",),
            required_sections=("tokenizer",), uses_device=True,
        ),
    )  # fmt: skip
    for each in (pipeline, stage_runs):
        monkeypatch.setattr(each, "STAGES", stages)


IDENTITY = {"value": "one"}
VALUES = {
    "name": "toy",
    "budget": {"hours": 0.1},
    "data": {"sources": [{"name": "a", "kind": "text", "path": "*.txt"}]},
    "tokenizer": {"vocab_size": 300},
    "model": {"context_length": 64},
    "train": {"learning_rate": 0.01},
}


def run(tmp_path, *overrides, **options):
    return [
        (job.stage.name, state)
        for job, state in pipeline.run(parse_recipe(VALUES, overrides), tmp_path / "toy", Machine(), **options)
    ]


def test_second_run_builds_nothing(tmp_path):
    assert run(tmp_path) == [("data", "built"), ("tokenizer", "built"), ("base", "built")]
    assert run(tmp_path) == [("data", "done"), ("tokenizer", "done"), ("base", "done")]
    assert CALLS == ["data", "tokenizer", "base"]
    assert (tmp_path / "toy/04-base/result.txt").read_text() == "base02-tokenizer"
    assert verify_folder(tmp_path / "toy/01-data") == []


def test_changed_knob_is_an_error_unless_replaced(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError) as caught:
        run(tmp_path, "train.learning_rate=0.02")
    assert "train.learning_rate: 0.01 -> 0.02" in caught.value.message
    assert "stages to rebuild: 04-base" in caught.value.message
    assert len(CALLS) == 3
    assert run(tmp_path, "train.learning_rate=0.02", replace_stale=True)[-1] == ("base", "built")
    assert CALLS[3:] == ["base"]


def test_machine_and_engine_do_not_change_the_fingerprint(tmp_path):
    run(tmp_path)
    assert run(tmp_path, "machine.threads=1", "machine.micro_batch_size=1") == [
        (n, "done") for n in ("data", "tokenizer", "base")
    ]
    assert run(tmp_path, "train.engine=deepspeed")[-1] == ("base", "done")  # not installed, and not needed


def test_missing_engine_is_an_error_before_any_stage_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_support, "find_spec", lambda module: None)
    with pytest.raises(UserError, match="Megatron-Core is not installed"):
        run(tmp_path, "train.engine=megatron")
    assert CALLS == []


def test_changed_source_makes_all_later_stages_stale(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setitem(IDENTITY, "value", "two")
    with pytest.raises(UserError, match="content of a source file changed"):
        run(tmp_path)
    assert [state for _, state in run(tmp_path, replace_stale=True)] == ["built"] * 3


def test_complete_stage_does_not_need_its_sources(tmp_path, monkeypatch):
    run(tmp_path, until_stage="tokenizer")
    monkeypatch.setitem(IDENTITY, "value", None)
    assert run(tmp_path) == [("data", "done"), ("tokenizer", "done"), ("base", "built")]
    with pytest.raises(UserError, match="no file matches"):
        run(tmp_path, "seed=2")


def test_missing_required_section_is_named(tmp_path):
    with pytest.raises(UserError, match=r"\[train\] needs \[tokenizer\], which the recipe does not have"):
        run(tmp_path, "tokenizer=none", "model.vocab_size=300")
    assert CALLS == []


def test_from_and_until(tmp_path):
    assert run(tmp_path, until_stage="tokenizer") == [("data", "built"), ("tokenizer", "built")]
    with pytest.raises(UserError, match="no such stage"):
        run(tmp_path, from_stage="bse")
    assert run(tmp_path, from_stage="tokenizer") == [("data", "done"), ("tokenizer", "built"), ("base", "built")]
    with pytest.raises(UserError, match="--from tokenizer comes after --until data"):
        run(tmp_path, from_stage="tokenizer", until_stage="data")
    with pytest.raises(UserError, match="does not have this stage"):
        run(tmp_path, "tokenizer=none", "train=none", until_stage="tokenizer")


def test_failed_stage_continues_in_its_partial_folder(tmp_path, monkeypatch):
    def interrupted_stage(recipe, inputs, out, machine):
        if (out / "first-half").exists():
            (out / "second-half").write_text("2")
            return {}
        (out / "first-half").write_text("1")
        raise KeyboardInterrupt

    sys.modules["toy_stages"].base = interrupted_stage
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not (tmp_path / "toy/04-base").exists()
    jobs = pipeline.resolve_stage_runs(derive(parse_recipe(VALUES)).recipe, tmp_path / "toy", Machine())
    assert [job.state() for job in jobs] == ["complete", "complete", "interrupted"]
    assert run(tmp_path)[-1] == ("base", "built")
    manifest = Manifest.read(tmp_path / "toy/04-base")
    assert manifest is not None
    assert set(manifest.files) == {"first-half", "second-half"}


def test_failed_rebuild_of_a_complete_stage_leaves_nothing(tmp_path, monkeypatch):
    run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules["toy_stages"], "base", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        with pytest.raises(UserError, match="no space left"):
            run(tmp_path, from_stage="base")
    assert run(tmp_path)[-1] == ("base", "done")
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names <= {"01-data", "02-tokenizer", "04-base", "plan.json", "recipe.json", "run.json", ".lock"}


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM"])
def test_storage_fault_is_a_user_error_and_the_run_continues(tmp_path, name):
    code, working = getattr(errno, name), sys.modules["toy_stages"].base

    def failing_stage(recipe, inputs, out, machine):
        raise OSError(code, os.strerror(code))

    sys.modules["toy_stages"].base = failing_stage
    with pytest.raises(UserError, match=rf"toy/04-base.partial: {os.strerror(code).lower()}"):
        run(tmp_path)
    assert not (tmp_path / "toy/04-base").exists()
    (tmp_path / "toy/.04-base.seconds").write_text("")  # what a full disk left of it
    sys.modules["toy_stages"].base = working
    assert run(tmp_path)[-1] == ("base", "built")
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [
        ".lock", "01-data", "02-tokenizer", "04-base", "plan.json", "recipe.json", "run.json",
    ]  # fmt: skip


def test_unfinished_work_of_another_recipe_is_told_and_its_time_not_counted(tmp_path, monkeypatch):
    def interrupted(recipe, inputs, out, machine):
        raise KeyboardInterrupt

    working, lines = sys.modules["toy_stages"].base, []
    sys.modules["toy_stages"].base = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    (tmp_path / "toy/.04-base.seconds").write_text("3600")
    sys.modules["toy_stages"].base = working
    monkeypatch.setattr("groundup.artifacts.progress.Progress.log", lambda self, text: lines.append(text))
    assert run(tmp_path, "train.learning_rate=0.02")[-1] == ("base", "built")
    assert "04-base: starts anew: what was unfinished is of another recipe (1.0 hours)" in lines
    assert Manifest.read(tmp_path / "toy/04-base").provenance["seconds"] < 3600


def test_read_only_run_folder_is_a_user_error(tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(pipeline, "write_atomically", refuse)
    with pytest.raises(UserError, match=r"recipe.json: read-only file system"):
        run(tmp_path)


MOMENTS = (
    ("pipeline", "list_files"), ("pipeline", "sync_folder"), ("pipeline", "provenance"), ("pipeline", "promote"),
    ("directory", "sync_folder"), ("directory", "finish_promotion"), ("shutil", "rmtree"),
)  # fmt: skip
"""Calls between the end of a stage's function and the end of its build."""


@pytest.mark.parametrize(("module", "function"), MOMENTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_in_the_last_moment_loses_no_training(tmp_path, monkeypatch, module, function, when):
    def stage(recipe, inputs, out, machine):
        checkpoint = out / "checkpoints/step-1/weights"
        if not checkpoint.exists():
            CALLS.append("trained")
            checkpoint.parent.mkdir(parents=True)
            checkpoint.write_text("1")
        (out / "model").write_text(checkpoint.read_text())
        directory.discard_when_complete(out, [out / "checkpoints"])
        return {}

    run(tmp_path, until_stage="tokenizer")
    sys.modules["toy_stages"].base = stage
    owner = {"pipeline": pipeline, "directory": directory, "shutil": shutil}[module]
    original = getattr(owner, function)

    def kill(*arguments, **options):
        if when == "after":
            original(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, kill)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    run(tmp_path)
    folder = tmp_path / "toy/04-base"
    assert CALLS.count("trained") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model"]
    assert verify_folder(folder) == []
    assert {path.name for path in folder.parent.glob(".*")} == {".lock"}


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    def stage(recipe, inputs, out, machine):
        (out / "model").touch()
        (out / ".model.json.123.tmp").touch()
        (out / "deep").mkdir()
        (out / "deep/.clean.parquet.123.part").touch()
        return {}

    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/.plan.json.123.tmp").touch()
    sys.modules["toy_stages"].base = stage
    run(tmp_path)
    manifest = Manifest.read(tmp_path / "toy/04-base")
    assert manifest is not None
    assert set(manifest.files) == {"model"}
    assert not [path for path in (tmp_path / "toy").rglob(".*") if path.name != ".lock"]


def test_training_is_planned_again_when_the_text_is_counted(tmp_path, monkeypatch):
    stages = list(pipeline.STAGES)
    stages.insert(2, Stage("tokens", "03-tokens", "tokenizer", "toy_stages:tokens", inputs=("tokenizer",)))
    counts = {"train": {"tokens": 50_000}}
    monkeypatch.setattr(sys.modules["toy_stages"], "tokens", lambda *_: counts, raising=False)
    for each in (pipeline, stage_runs):
        monkeypatch.setattr(each, "STAGES", tuple(stages))
    recipe = parse_recipe(VALUES | {"model": {}, "train": {}, "budget": {"hours": 1}})
    states = [state for _, state in pipeline.run(recipe, tmp_path, Machine())]
    assert states == ["built"] * 4
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["data"] == {"tokens": 50_000, "epochs": pytest.approx(4, rel=0.1), "limited": True, "estimated": False}
    assert Manifest.read(tmp_path / "04-base").sections["train"]["tokens"] == plan["train"]["tokens"] <= 200_000
    assert verify(tmp_path) == []
    assert [state for _, state in pipeline.run(recipe, tmp_path, Machine())] == ["done"] * 4
    shutil.rmtree(tmp_path / "03-tokens")  # later stages are not stale as long as the text is the same
    assert [state for _, state in pipeline.run(recipe, tmp_path, Machine())] == ["done", "done", "built", "done"]
    shutil.rmtree(tmp_path / "03-tokens")
    counts["train"]["tokens"] = 30_000
    with pytest.raises(UserError, match=r"train\.tokens"):
        list(pipeline.run(recipe, tmp_path, Machine()))


def test_undeclared_section_is_an_error(tmp_path):
    def stage(recipe, inputs, out, machine):
        return {"seed": recipe.train.steps, "no": recipe.seed}

    sys.modules["toy_stages"].base = stage
    with pytest.raises(AttributeError, match="declares train, model"):
        run(tmp_path)


def test_run_folder_has_recipe_and_plan(tmp_path):
    run(tmp_path)
    assert pipeline.read_recipe(tmp_path / "toy") == parse_recipe(VALUES)
    assert json.loads((tmp_path / "toy/plan.json").read_text())["train"]["learning_rate"] == 0.01
    with pytest.raises(UserError, match="not a run folder"):
        pipeline.read_recipe(tmp_path)


def test_differences_of_nested_values():
    assert pipeline.list_differences({"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 2, "c": [1, 3]}, "d": None}) == [
        "a.b: 1 -> 2",
        "a.c[1]: 2 -> 3",
    ]


def verify(run_folder):
    return verify_run(run_folder, [run_folder / stage.folder for stage in pipeline.STAGES])


@pytest.mark.parametrize(
    "path", ["recipe.json", "plan.json", "run.json", "01-data/manifest.json", "04-base/manifest.json"]
)
def test_verify_finds_every_edited_byte_of_manifests_and_plan(tmp_path, path):
    run(tmp_path)
    assert verify(tmp_path / "toy") == []
    file = tmp_path / "toy" / path
    content = file.read_bytes()
    for position in range(0, len(content), 7):
        edited = bytearray(content)
        edited[position] ^= 1 << position % 7
        file.write_bytes(edited)
        assert any(path in line for line in verify(tmp_path / "toy")), position


def test_verify_finds_removed_and_foreign_stages(tmp_path):
    run(tmp_path)
    run(tmp_path / "other")
    shutil.move(tmp_path / "toy/04-base", tmp_path / "base")
    assert verify(tmp_path / "toy") == ["04-base/manifest.json: missing"]
    shutil.move(tmp_path / "other/toy/04-base", tmp_path / "toy/04-base")
    manifest = json.loads((tmp_path / "toy/04-base/manifest.json").read_text())
    manifest["provenance"]["seconds"] = 1e6  # made in other circumstances
    (tmp_path / "toy/04-base/manifest.json").write_text(json.dumps(manifest))
    assert verify(tmp_path / "toy")[0].startswith("04-base/manifest.json: changed: sha256")
    (tmp_path / "toy/run.json").unlink()
    assert verify(tmp_path / "toy")[0].startswith("run.json: missing")


def test_run_refuses_to_build_on_an_edited_manifest(tmp_path):
    run(tmp_path, until_stage="tokenizer")
    path = tmp_path / "toy/01-data/manifest.json"
    path.write_text(path.read_text().replace('"calls": 1', '"calls": 9'))
    with pytest.raises(UserError, match=r"01-data/manifest\.json: changed: sha256"):
        run(tmp_path)
    assert [state for _, state in run(tmp_path, from_stage="data")] == ["built"] * 3
    assert verify(tmp_path / "toy") == []


def test_run_refuses_to_build_on_damaged_files(tmp_path):
    run(tmp_path, until_stage="tokenizer")
    folder = tmp_path / "toy/02-tokenizer"
    (folder / "result.txt").write_text("damaged")
    with pytest.raises(UserError, match=r"02-tokenizer/result\.txt: changed: sha256 .*--from tokenizer"):
        run(tmp_path)
    assert CALLS == ["data", "tokenizer"]
    impatient = pipeline.run(parse_recipe(VALUES), tmp_path / "toy", Machine(verify_inputs=False))
    assert [state for _, state in impatient] == ["done", "done", "built"]
    assert [state for _, state in run(tmp_path, from_stage="tokenizer")] == ["done", "built", "built"]
    assert verify(tmp_path / "toy") == []
    (folder / "extra.txt").write_text("found by a glob of the next stage")
    with pytest.raises(UserError, match=r"02-tokenizer/extra\.txt: not in the manifest"):
        run(tmp_path, from_stage="base")


def test_copied_stage_and_stage_of_a_crashed_run_are_recorded_by_the_next_run(tmp_path):
    run(tmp_path)
    (tmp_path / "toy/run.json").unlink()
    assert run(tmp_path)[-1] == ("base", "done")
    assert verify(tmp_path / "toy") == []
    shutil.rmtree(tmp_path / "toy/04-base")
    assert run(tmp_path)[-1] == ("base", "built")
    assert verify(tmp_path / "toy") == []
