"""Cluster job files of a plan: Slurm, Kubernetes JobSet, SkyPilot.

Each machine starts `groundup.cli _agent`, which takes the options of torchrun, starts the ranks and restarts them after a
crash. A user error ends it with exit code 2, which no job file starts again. A person reads, completes and submits the
file: values that depend on the cluster are marked CHANGE.
"""

import hashlib
import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from groundup.artifacts.errors import USER_ERROR_EXIT_CODE, UserError
from groundup.plan.derive import Plan
from groundup.plan.layout.parallel_layout import planned_devices
from groundup.plan.memory.memory_estimate import device_kind

RENDEZVOUS_PORT = 29500
SHUTDOWN_SECONDS = 300
"""Seconds between the stop signal and the kill, for the current step and a checkpoint."""

MAX_DEVICES_PER_MACHINE = 8
"""Devices per machine, unless machine.devices is set."""

FORWARDED_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
"""Forwarded to the ranks, which save a checkpoint and exit: see train/signals.py."""

SKYPILOT_NAMES = {"A100": "A100-80GB", "RTX-4090": "RTX4090"}
"""Names of devices in SkyPilot, if different from those of the plan."""

MAX_LABEL_LENGTH = 63
"""Of a DNS label (RFC 1035): names of jobs, pods and host names."""

POD_RECIPE = "/etc/groundup/recipe.toml"
SKYPILOT_RECIPE = "/tmp/groundup/recipe.toml"
SKYPILOT_VOLUME = "/shared"

UNSAFE_IN_YAML = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What a block of YAML cannot hold as it is, or holds as another line ending."""


@dataclass(frozen=True)
class ClusterJob:
    """Values of a job file.

    Attributes:
        name: name of the recipe.
        hours: planned; 0 if unknown.
        accelerator: upper-case name of the device; None: CPU.
        max_restarts: restarts of failed ranks.
        recipe_file: path on this computer.
        runs_folder: as given; relative to the folder in which the job runs.
        overrides: of the recipe, as in --set.
        activation: commands that activate the environment of this process, a line each.
    """

    name: str
    machines: int
    devices_per_machine: int
    hours: float
    accelerator: str | None
    max_restarts: int
    recipe_file: Path
    runs_folder: str
    overrides: tuple[str, ...]
    activation: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name as a DNS label, so short that the names of all pods are labels, too."""
        longest_suffix = f"-machine-0-{self.machines - 1}-abcde"  # the last five letters are chosen by Kubernetes
        return dns_label(self.name, MAX_LABEL_LENGTH - len(longest_suffix))

    @property
    def title(self) -> str:
        return f"{self.name}: {self.machines} machines of {self.devices_per_machine} devices."

    def agent_arguments(self, head_node: str, run_id: str, recipe_file: str, runs_folder: str) -> list[str]:
        """Arguments of `python` on each machine."""
        command = ["run", recipe_file, "--runs", runs_folder]
        command += [word for knob in self.overrides for word in ("--set", knob)]
        return [
            *("-m", "groundup.cli", "_agent"),
            f"--nnodes={self.machines}",
            f"--nproc-per-node={self.devices_per_machine}",
            f"--max-restarts={self.max_restarts}",
            f"--rdzv-id={run_id}",
            f"--rdzv-endpoint={head_node}:{RENDEZVOUS_PORT}",
            *("--", *command),
        ]

    def shell_command(self, head_variable: str, run_id_variable: str, recipe_file: str, runs_folder: str) -> str:
        """The command of each machine, for bash: an option a line. Head node and run id are variables."""
        words = []
        for word in self.agent_arguments(head_variable, run_id_variable, recipe_file, runs_folder):
            is_ours = word.startswith(("--rdzv-id=", "--rdzv-endpoint=")) and "--" not in words
            words.append(re.sub("=(.*)", r'="\1"', word) if is_ours else shlex.quote(word))
        start = words.index("--")
        return " \\\n  ".join([" ".join(["python", *words[:3]]), *words[3:start], " ".join(words[start:])])


def cluster_job(plan: Plan, recipe_file: Path, overrides: tuple[str, ...], runs_folder: str) -> ClusterJob:
    """The job of a derived recipe. Raises UserError if its devices do not fill machines."""
    machine = plan.recipe.machine
    total = planned_devices(plan.recipe)
    devices = machine.devices or min(total, MAX_DEVICES_PER_MACHINE)
    if total % devices:
        raise UserError(
            f"budget.devices = {total} is not divisible by {devices} devices per machine",
            hint=f"set machine.devices={math.gcd(total, devices)}, or budget.devices={-(-total // devices) * devices}",
        )
    hardware = plan.recipe.budget.hardware
    return ClusterJob(
        plan.recipe.name, total // devices, devices, plan.seconds / 3600,
        None if device_kind(hardware) == "cpu" else hardware.upper(), machine.max_restarts,
        recipe_file, runs_folder, overrides, activation_commands(os.environ),
    )  # fmt: skip


def activation_commands(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Commands of a shell that load the modules and activate the Python environment that are active now."""
    commands = []
    if modules := environment.get("LOADEDMODULES"):
        commands.append(f"module load {shlex.join(modules.split(':'))}")
    if folder := environment.get("VIRTUAL_ENV"):
        commands.append(f"source {shlex.quote(folder + '/bin/activate')}")
    elif folder := environment.get("CONDA_PREFIX"):
        commands.append(f'eval "$(conda shell.bash hook)" && conda activate {shlex.quote(folder)}')
    return tuple(commands)


def dns_label(name: str, max_length: int) -> str:
    """A DNS label like `name`; a hash replaces the end of a long one, so that different names stay different."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = label if re.match("[a-z]", label) else f"run-{label}".strip("-")
    if len(label) > max_length:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        label = f"{label[: max_length - 9].rstrip('-')}-{digest}"
    return label


def yaml_string(text: str) -> str:
    """A double-quoted YAML scalar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return '"' + UNSAFE_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def yaml_block(text: str, spaces: int) -> str:
    """A YAML scalar of several lines, below a key that is indented by less than `spaces`."""
    if UNSAFE_IN_YAML.search(text):
        return yaml_string(text)
    lines = text.removesuffix("\n").split("\n")
    if text.startswith((" ", "\n")) or not text.endswith("\n") or text.endswith("\n\n"):
        return yaml_string(text)
    return "|\n" + "\n".join(" " * spaces + line if line else "" for line in lines)


def render_slurm(job: ClusterJob) -> str:
    """A Slurm batch script, which requeues itself before its time limit."""
    gpus = f"#SBATCH --gpus-per-node={job.devices_per_machine}\n" if job.accelerator else ""
    activation = "".join(f"{command}\n" for command in job.activation)
    recipe_file, runs_folder = (str(Path(path).absolute()) for path in (job.recipe_file, job.runs_folder))
    command = job.shell_command("$head", "$SLURM_JOB_ID", recipe_file, runs_folder)
    return f"""#!/bin/bash
# {job.title} Submit it with: sbatch THIS_FILE
# The recipe, the run folder and the environment must be on a file system that all machines share.
#SBATCH --job-name={job.label}
#SBATCH --nodes={job.machines}
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --exclusive
#SBATCH --time={_slurm_time(job.hours)}
#SBATCH --signal=B:USR1@{SHUTDOWN_SECONDS}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job.label}-%j.log
#CHANGE: --partition and --account, if your cluster needs them: ##SBATCH --partition=...

# CHANGE: the environment in which groundup is installed: module load ..., source .../bin/activate, conda activate ...
{activation}set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 {command} &
run=$!

# Before the time limit: let the ranks save a checkpoint, and continue in another job, unless the run has ended.
requeue() {{
  kill -USR1 "$run"
  code=0
  wait "$run" || code=$?
  if [ "$code" != 0 ] && [ "$code" != {USER_ERROR_EXIT_CODE} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
  exit "$code"
}}
trap requeue USR1
wait "$run"
"""


def render_kubernetes(job: ClusterJob) -> str:
    """A JobSet (https://jobset.sigs.k8s.io): one indexed job with a pod for each machine; and the recipe."""
    head = f"{job.label}-machine-0-0.{job.label}"
    gpus = f"""
                  resources:
                    limits:
                      nvidia.com/gpu: {job.devices_per_machine}""" if job.accelerator else ""  # fmt: skip
    runs = f"""
                    - name: work
                      mountPath: {yaml_string(job.runs_folder)}
                      subPath: runs""" if Path(job.runs_folder).is_absolute() else ""  # fmt: skip
    arguments = job.agent_arguments(head, job.label, POD_RECIPE, job.runs_folder)
    # Kubernetes expands $(NAME) in arguments, and reads $$ as one $.
    args = "".join(f"\n{20 * ' '}- {yaml_string(word.replace('$', '$$'))}" for word in arguments)
    label = yaml_string(job.label)
    recipe = job.recipe_file.read_text(encoding="utf-8")
    return f"""# {job.title}
# Submit it with: kubectl apply -f THIS_FILE
# The run folder is on the claimed volume, which all pods share (ReadWriteMany); relative paths of the recipe, too.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {label}
data:
  recipe.toml: {yaml_block(recipe, 4)}
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {label}
spec:
  failurePolicy:
    maxRestarts: {job.max_restarts}
    rules:
      - name: userError  # starting it again would not help
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
    subdomain: {label}
  replicatedJobs:
    - name: machine
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          parallelism: {job.machines}
          completions: {job.machines}
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: groundup
                  operator: In
                  values: [{USER_ERROR_EXIT_CODE}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: {SHUTDOWN_SECONDS}
              containers:
                - name: groundup
                  image: CHANGE/groundup:latest
                  workingDir: /work
                  command: [python]
                  args:{args}
                  ports:
                    - containerPort: {RENDEZVOUS_PORT}{gpus}
                  volumeMounts:
                    - name: recipe
                      mountPath: {Path(POD_RECIPE).parent}
                    - name: work
                      mountPath: /work{runs}
                    - name: shared-memory
                      mountPath: /dev/shm
              volumes:
                - name: recipe
                  configMap:
                    name: {label}
                - name: work
                  persistentVolumeClaim:
                    claimName: CHANGE
                - name: shared-memory
                  emptyDir:
                    medium: Memory
"""


def render_skypilot(job: ClusterJob) -> str:
    """A SkyPilot task (https://docs.skypilot.co/en/latest/reference/yaml-spec.html)."""
    hardware = (
        f"accelerators: {SKYPILOT_NAMES.get(job.accelerator, job.accelerator)}:{job.devices_per_machine}\n  network_tier: best"
        if job.accelerator
        else f"cpus: {job.devices_per_machine}+"
    )
    runs_folder = str(Path(SKYPILOT_VOLUME, job.runs_folder))  # an absolute folder stays as it is
    command = job.shell_command("$head", "$SKYPILOT_TASK_ID", SKYPILOT_RECIPE, runs_folder)
    script = f'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\nexec {command}\n'
    return f"""# {job.title}
# Submit it with: sky launch -c {job.label} THIS_FILE
# The run folder must be on a volume that all machines share, with locks and renames: not a mounted bucket, and not the
# working folder, which is another on each machine.
name: {yaml_string(job.label)}

num_nodes: {job.machines}

resources:
  {hardware}

workdir: .

file_mounts:
  {SKYPILOT_RECIPE}: {yaml_string(str(job.recipe_file.absolute()))}

volumes:
  {SKYPILOT_VOLUME}: CHANGE  # name of a volume (sky volumes ls) with ReadWriteMany

setup: |
  pip install "CHANGE[all]"  # URL or path of groundup

run: {yaml_block(script, 2)}
"""


JOB_FORMATS = {"slurm": render_slurm, "kubernetes": render_kubernetes, "skypilot": render_skypilot}
FILE_SUFFIXES = {"slurm": "sbatch", "kubernetes": "jobset.yaml", "skypilot": "sky.yaml"}


def _slurm_time(hours: float) -> str:
    """1.5 times the planned hours, at least one, in the format of Slurm: days-hours:minutes:seconds."""
    minutes = max(60, math.ceil(1.5 * hours * 60))
    return f"{minutes // 1440}-{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00"
