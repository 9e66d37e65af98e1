"""Rules of the whole source tree: imports, file sizes, the stage table, the example recipes."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.artifacts.system_modules import POSIX_MODULES
from groundup.cli.extras import EXTRAS
from groundup.plan import derive
from groundup.recipe import Recipe, load_recipe
from groundup.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "groundup"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
CHAPTERS = sorted(path for path in SOURCE.iterdir() if (path / "__init__.py").is_file())
TORCH_FREE = ("artifacts", "recipe", "plan", "data", "tokenizer", "report", "viewers")
HEAVY = "{'torch', 'daft', 'matplotlib', 'pyarrow', 'numpy', 'tokenizers', 'trafilatura', 'starlette', 'typst'}"
MAX_LINES = 400
PEERS = {
    "transformers", "peft", "trl", "gptqmodel", "litgpt", "llama_cpp", "vllm", "datatrove", "auto_gptq", "awq",
}  # fmt: skip


def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(TREES[path]))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize(
    "module", ["groundup", "groundup.cli", "groundup.pipeline", *(f"groundup.{name}" for name in TORCH_FREE)]
)
def test_chapters_before_the_model_import_no_torch(module):
    code = f"import sys, {module}; print({{'torch', 'daft', 'matplotlib'}} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "recipes/llama-7b.toml", "--json", "--set", "export={}"], ["explain", "train.steps"]],
)
def test_quick_commands_import_no_large_package(arguments):
    code = (
        f"import sys; from groundup.cli import app; app({arguments}, standalone_mode=False); "
        f"print({HEAVY} & set(sys.modules) or '', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout
    assert done.stderr == "\n"


def test_library_needs_no_optional_package():
    """Models load, generate and train with the packages of a plain `pip install groundup`."""
    packages = [package for extra in EXTRAS.values() for package in extra]
    chapters = ", ".join(f"groundup.{path.name}" for path in CHAPTERS if path.name not in ("report", "serve", "cli"))
    packages += POSIX_MODULES  # nor one that Windows lacks
    code = f"import sys; sys.modules |= dict.fromkeys({packages}); import groundup.cli, {chapters}; groundup.open_model"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_parses_and_plans(path):
    recipe = load_recipe(path)
    if recipe.base is not None:  # the model of the reader's own
        return
    summary = derive(recipe).summary()
    assert summary["name"] == path.stem
    assert recipe.train is None or summary["hours"] > 0


def test_stage_table():
    sections = set(Recipe.model_fields) - {"name", "seed", "budget", "base", "model", "machine"}
    assert {stage.section for stage in STAGES} == sections
    assert [stage.folder for stage in STAGES] == sorted(stage.folder for stage in STAGES)
    names = [stage.name for stage in STAGES]
    for index, stage in enumerate(STAGES):
        assert stage.folder == f"{index + 1:02d}-{stage.name}"
        assert set(stage.inputs) <= set(names[:index]), "a stage reads only earlier stages"
        for reference in filter(None, (stage.function, stage.identity)):
            module, _, function = reference.partition(":")
            tree = TREES[SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py")]
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, reference


def test_stage_folders_are_spelled_once():
    folders = {stage.folder for stage in STAGES}
    for path in FILES:
        if path.name != "stages.py":
            constants = {node.value for node in ast.walk(TREES[path]) if isinstance(node, ast.Constant)}
            assert not folders & constants, f"{path}: use groundup.stages.STAGE_FOLDERS"


def test_only_the_pipeline_imports_a_stage_module():
    for path in FILES:
        if path.name not in ("pipeline.py", "stage.py"):
            assert not [name for name in imported_modules(path) if name.endswith(".stage")], path


def test_no_module_is_imported_by_name():
    """The import contracts do not see such imports; the table of stages and the pipeline have them."""
    module = re.compile(r"groundup(\.[a-z_]+){2,}(:\w+)?")
    for path in FILES:
        if path.name not in ("stages.py", "pipeline.py"):
            texts = [node.value for node in ast.walk(TREES[path]) if isinstance(node, ast.Constant)]
            assert not [text for text in texts if isinstance(text, str) and module.fullmatch(text)], path


def test_no_module_of_posix_alone_is_imported_with_a_file():
    """Commands that need none of them work on Windows; the others say so in one line."""
    for path in FILES:
        if path.name == "sandboxed_program.py":  # a script for Linux, in a process of its own
            continue
        deferred = {
            id(node) for each in ast.walk(TREES[path]) if isinstance(each, ast.FunctionDef) for node in ast.walk(each)
        }
        at_import = [node for node in ast.walk(TREES[path]) if id(node) not in deferred]
        names = {alias.name for node in at_import if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in at_import if isinstance(node, ast.ImportFrom) and node.module}
        assert not names & set(POSIX_MODULES), path


def test_file_size():
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_no_catch_all_module():
    forbidden = {"utils", "util", "common", "helpers", "misc", "tools", "lib", "core"}
    assert [str(path) for path in FILES if forbidden & {path.stem, path.parent.name}] == []


def test_every_chapter_has_a_description():
    assert len(CHAPTERS) >= 15
    for chapter in CHAPTERS:
        description = ast.get_docstring(TREES[chapter / "__init__.py"]) or ""
        assert re.match(r"(\d+\. )?[A-Z][a-z -]+: .{20}", description), chapter.name


def test_peers_are_never_imported():
    for path in FILES:
        assert not PEERS & {name.split(".")[0] for name in imported_modules(path)}, path


def test_nothing_is_unpickled():
    """Allowed: torch.load with weights_only=True, a module's eval(), YAML without constructors."""
    unsafe = re.compile(
        r"import pickle|pickle\.load|torch\.load\((?![^()]*weights_only=True)"
        r"|yaml\.load\((?![^()]*Loader=yaml\.CBaseLoader)|(?<![\w.])eval\("
    )
    for path in FILES:
        found = unsafe.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found[0] if found else ''}"


def test_no_public_name_is_that_of_a_module():
    """Once a module is imported, its package has its name as an attribute, before any lazy import."""
    for init in sorted(SOURCE.rglob("__init__.py")):
        match = re.search(r"^_LAZY_IMPORTS = ({.*?^})", init.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        names = set(ast.literal_eval(match[1])) if match else set()
        assert not names & {path.stem for path in init.parent.glob("*.py")}, init
