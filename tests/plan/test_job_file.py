"""Cluster job files: golden files, valid syntax, known keys."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from groundup.artifacts.errors import UserError
from groundup.plan import derive
from groundup.plan.job_file import FILE_SUFFIXES, JOB_FORMATS, cluster_job
from groundup.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
RECIPE = "recipes/llama-7b.toml"


def job(*sets: str, recipe: str = RECIPE):
    return cluster_job(derive(load_recipe(ROOT / recipe, sets)), recipe, sets, "/shared/runs")


@pytest.mark.parametrize("kind", JOB_FORMATS)
def test_job_files_equal_golden_files(kind):
    text = JOB_FORMATS[kind](job("train.learning_rate=1e-4"))
    path = GOLDEN / f"job.{FILE_SUFFIXES[kind]}"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", JOB_FORMATS)
@pytest.mark.parametrize(
    ("recipe", "sets"),
    [(RECIPE, ()), (RECIPE, ("budget.devices=1024",)), ("recipes/quickstart.toml", ("machine.devices=2",)),
     (RECIPE, ('name="A_strange.Name"', "budget.devices=12", "machine.devices=4"))],
)  # fmt: skip
def test_job_files_are_valid(kind, recipe, sets):
    text = JOB_FORMATS[kind](job(*sets, recipe=recipe))
    if kind == "slurm":
        scripts = [text]
    elif kind == "kubernetes":
        scripts = _check_jobset(yaml.safe_load(text))
    else:
        scripts = _check_task(yaml.safe_load(text))
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "-m groundup.cli run" in text
    assert ("gpu" in text.lower() or "H100" in text) == ("llama" in recipe)


def _check_jobset(values: dict[str, Any]) -> list[str]:
    """The fields of jobset.x-k8s.io/v1alpha2 (kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go)."""
    assert values["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert values["kind"] == "JobSet"
    spec = values["spec"]
    assert spec.keys() == {"failurePolicy", "network", "replicatedJobs"}
    assert spec["failurePolicy"].keys() == {"maxRestarts"}
    assert spec["network"].keys() == {"enableDNSHostnames", "publishNotReadyAddresses", "subdomain"}
    (replicated,) = spec["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    inner = replicated["template"]["spec"]
    assert inner["parallelism"] == inner["completions"]
    pod = inner["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    # host name: <JobSet>-<replicated job>-<job>-<pod>.<subdomain>
    host = f"{values['metadata']['name']}-{replicated['name']}-0-0.{spec['network']['subdomain']}"
    assert f'"{host}:29500"' in container["args"][0]
    return container["args"]


def _check_task(values: dict[str, Any]) -> list[str]:
    """The fields of a SkyPilot task (docs.skypilot.co/en/latest/reference/yaml-spec.html)."""
    assert values.keys() == {"name", "num_nodes", "resources", "workdir", "setup", "run"}
    assert values["resources"].keys() <= {"accelerators", "network_tier", "cpus"}
    return [values["setup"], values["run"]]


def test_devices_must_fill_machines():
    many = job("budget.devices=1024")
    assert (many.machines, many.devices_per_machine) == (128, 8)
    assert (job("budget.devices=4").machines, job("budget.devices=4").devices_per_machine) == (1, 4)
    with pytest.raises(UserError, match=r"budget.devices = 12 is not divisible by 8 devices per machine") as error:
        job("budget.devices=12")
    assert error.value.hint == "set machine.devices=4, or budget.devices=16"


def test_command_is_quoted_for_the_shell():
    made = job('name="x"', "machine.cache_dir=/a b/$HOME")
    assert "'machine.cache_dir=/a b/$HOME'" in JOB_FORMATS["slurm"](made)
