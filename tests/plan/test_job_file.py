"""Cluster job files: golden files, valid by the schemas of the systems, whatever a user writes."""

import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import job_schemas
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.plan import derive
from groundup.plan.layout.job_file import (
    FILE_SUFFIXES,
    JOB_FORMATS,
    ClusterJob,
    activation_commands,
    cluster_job,
    yaml_block,
    yaml_string,
)
from groundup.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
RECIPE = ROOT / "recipes/llama-7b.toml"
QUICKSTART = ROOT / "recipes/quickstart.toml"


def job(*sets: str, recipe: Path = RECIPE, runs: str = "/shared/runs") -> ClusterJob:
    made = cluster_job(derive(load_recipe(recipe, sets)), recipe, sets, runs)
    return replace(made, activation=("module load cuda/12.8", "source /home/me/venv/bin/activate"))


@pytest.mark.parametrize("kind", JOB_FORMATS)
def test_job_files_equal_golden_files(kind, tmp_path):
    (tmp_path / "llama-7b.toml").write_text("# The recipe.\n", encoding="utf-8")
    made = replace(job("train.learning_rate=1e-4"), recipe_file=tmp_path / "llama-7b.toml", hours=65.8)
    text = JOB_FORMATS[kind](made).replace(str(tmp_path), "/home/me/recipes")
    path = GOLDEN / f"job.{FILE_SUFFIXES[kind]}"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


NAMES = [
    "on", "7b", "A_strange.Name", "x" * 200, "x" * 199 + "y", "--", "a-" * 40,
    "llama", "0" * 64,
]  # fmt: skip
WORDS = [
    "a b", "it's", 'a "b"', "$HOME $(rm -rf x) `x` $$", "\\", "多言語 é", "a\nb: c\n---\n#", "\x85\u2028\x7f\r", "x" * 200,
    "- a", "{a: b}", "",
]  # fmt: skip


@pytest.mark.parametrize("kind", JOB_FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_names_are_valid(kind, name):
    made = replace(job(), name=name, machines=1000)
    check_job(kind, JOB_FORMATS[kind](made), made)


def test_different_names_have_different_labels():
    labels = {replace(job(), name=name).label for name in NAMES}
    assert len(labels) == len(NAMES)


@pytest.mark.parametrize("kind", JOB_FORMATS)
@pytest.mark.parametrize("runs", ["runs", "/shared/my runs", "it's/$HOME"])
@pytest.mark.parametrize(
    ("recipe", "sets"), [(RECIPE, ()), (RECIPE, ("budget.devices=1024",)), (QUICKSTART, ("machine.devices=2",))]
)
def test_job_files_are_valid(kind, recipe, sets, runs):
    made = job(*sets, recipe=recipe, runs=runs)
    text = JOB_FORMATS[kind](made)
    check_job(kind, text, made)
    assert ("gpu" in text.lower() or "H100" in text) == (recipe == RECIPE)


@pytest.mark.parametrize("kind", JOB_FORMATS)
def test_what_a_user_writes_arrives_unchanged(kind, tmp_path):
    folder = tmp_path / 'it\'s a "folder" 多 $HOME'
    folder.mkdir()
    recipe = folder / "r é.toml"
    recipe.write_text("# \u2028 \x85 a\tb  \n" + RECIPE.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    made = replace(job(), recipe_file=recipe, overrides=tuple(WORDS), runs_folder=str(folder))
    text = JOB_FORMATS[kind](made)
    check_job(kind, text, made)
    if kind == "kubernetes":
        config_map, _ = yaml.safe_load_all(text)
        assert config_map["data"]["recipe.toml"] == recipe.read_bytes().decode()
    if kind == "skypilot":
        assert list(yaml.safe_load(text)["file_mounts"].values()) == [str(recipe)]


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100)
def test_yaml_scalars(text):
    assert yaml.safe_load(f"a: {yaml_string(text)}") == {"a": text}
    assert yaml.safe_load(f"a:\n  b: {yaml_block(text, 4)}\n  c: 1") == {"a": {"b": text, "c": 1}}


def check_job(kind: str, text: str, made: ClusterJob) -> None:
    """Check the file by the system's schema, and that its command arrives in Python as it was given."""
    if kind == "slurm":
        words = run_script(text, "srun --kill-on-bad-exit=1 ")
        recipe, runs = str(made.recipe_file), str(Path(made.runs_folder).absolute())
        options = re.findall("^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE)
        assert len(options) == text.count("\n#SBATCH")
        for name, value in options:
            assert re.fullmatch(job_schemas.SBATCH_OPTIONS[name], value), (name, value)
    elif kind == "kubernetes":
        config_map, values = yaml.safe_load_all(text)
        job_schemas.check_schema(config_map, job_schemas.CONFIG_MAP)
        job_schemas.check_schema(values, job_schemas.JOB_SET)
        words = check_jobset(values, config_map["metadata"]["name"])
        recipe, runs = "/etc/groundup/recipe.toml", made.runs_folder
    else:
        values = yaml.safe_load(text)
        job_schemas.check_schema(values, job_schemas.SKYPILOT_TASK)
        words = run_script(values["run"], "exec ")
        (recipe,) = values["file_mounts"]
        runs = str(Path("/shared", made.runs_folder))
        assert values["volumes"] == {"/shared": "CHANGE"}
    end = words.index("--")
    assert words[:3] == ["-m", "groundup.cli", "_agent"]
    assert {word.split("=")[0] for word in words[3:end]} == {
        "--nnodes", "--nproc-per-node", "--max-restarts", "--rdzv-id", "--rdzv-endpoint",
    }  # fmt: skip
    sets = [word for knob in made.overrides for word in ("--set", knob)]
    assert words[end + 1 :] == ["run", recipe, "--runs", runs, *sets]


def check_jobset(values: dict, config_map: str) -> list[str]:
    """Rules that JobSet's webhook and Kubernetes check beyond the schema; returns the arguments of python."""
    spec = values["spec"]
    (replicated,) = spec["replicatedJobs"]
    inner = replicated["template"]["spec"]
    assert inner["parallelism"] == inner["completions"]
    longest = f"{values['metadata']['name']}-{replicated['name']}-0-{inner['completions'] - 1}-abcde"
    job_schemas.check_schema(longest, job_schemas.DNS_LABEL)
    pod = inner["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "required by podFailurePolicy"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(mount["mountPath"].startswith("/") for mount in container["volumeMounts"])
    assert pod["volumes"][0]["configMap"]["name"] == config_map
    (rule,) = inner["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    # host name: <JobSet>-<replicated job>-<job>-<pod>.<subdomain>
    host = f"{values['metadata']['name']}-{replicated['name']}-0-0.{spec['network']['subdomain']}"
    arguments = [
        re.sub(r"\$\$|\$\(", lambda match: {"$$": "$", "$(": "expanded"}[match[0]], a) for a in container["args"]
    ]
    assert f"--rdzv-endpoint={host}:29500" in arguments
    assert container["command"] == ["python"]
    return arguments


def run_script(script: str, prefix: str) -> list[str]:
    """The arguments that bash gives to python in a job script; the rest of the script is only parsed."""
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    command = script.split(prefix, 1)[1].split(" &\nrun=$!")[0]
    assert command.startswith("python ")
    environment = {"head": "node-1", "SLURM_JOB_ID": "7", "SKYPILOT_TASK_ID": "7", "PATH": os.environ["PATH"]}
    python = 'python() { printf "%s\\0" "$@"; }\n'
    out = subprocess.run(["bash", "-c", python + command], env=environment, capture_output=True, check=True)
    return out.stdout.decode().split("\0")[:-1]


def test_devices_must_fill_machines():
    many = job("budget.devices=1024")
    assert (many.machines, many.devices_per_machine) == (128, 8)
    assert (job("budget.devices=4").machines, job("budget.devices=4").devices_per_machine) == (1, 4)
    with pytest.raises(UserError, match=r"budget.devices = 12 is not divisible by 8 devices per machine") as error:
        job("budget.devices=12", "train.batch_tokens=4227072")
    assert error.value.hint == "set machine.devices=4, or budget.devices=16"


def test_the_active_environment_is_activated():
    assert activation_commands({}) == ()
    assert activation_commands({"VIRTUAL_ENV": "/a b", "LOADEDMODULES": "gcc/13:cuda/12"}) == (
        "module load gcc/13 cuda/12", "source '/a b/bin/activate'",
    )  # fmt: skip
    (conda,) = activation_commands({"CONDA_PREFIX": "/opt/conda/envs/x"})
    assert shlex.split(conda)[-3:] == ["conda", "activate", "/opt/conda/envs/x"]


def test_a_job_that_has_ended_is_not_requeued(tmp_path):
    """The script's handler of the signal before the time limit, with commands in the place of Slurm's."""
    script = JOB_FORMATS["slurm"](job())
    handler = script[script.index("requeue() {") : script.index("trap requeue")]
    for code, requeued in ((0, False), (2, False), (1, True), (130, True)):
        lines = f"scontrol() {{ echo requeued; }}\n(trap '' USR1; exit {code}) & run=$!\nsleep 0.2\n"
        lines = lines.replace("sleep 0.2\n", "kill() { :; }\n") + handler + "requeue\n"
        done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout == "requeued\n") == (code, requeued)
