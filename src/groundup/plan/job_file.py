"""Cluster job files of a plan: Slurm, Kubernetes JobSet, SkyPilot.

Each machine starts `torchrun`, which starts the ranks and restarts them after a failure. A person reads, completes and
submits the file: values that depend on the cluster are marked CHANGE.
"""

import math
import re
import shlex
from dataclasses import dataclass

from groundup.artifacts.errors import UserError
from groundup.plan.derive import Plan
from groundup.plan.parallel_layout import planned_devices

RENDEZVOUS_PORT = 29500
SHUTDOWN_SECONDS = 300
"""Seconds between the stop signal and the kill, for the current step and a checkpoint."""

MAX_DEVICES_PER_MACHINE = 8
"""Devices per machine, unless machine.devices is set."""

FORWARDED_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
"""Forwarded to the ranks, which save a checkpoint and exit: see train/signals.py."""

SKYPILOT_NAMES = {"A100": "A100-80GB", "RTX-4090": "RTX4090"}
"""Names of devices in SkyPilot, if different from those of the plan."""


@dataclass(frozen=True)
class ClusterJob:
    """Values of a job file.

    Attributes:
        name: name of the recipe.
        hours: planned; 0 if unknown.
        accelerator: upper-case name of the device; None: CPU.
        max_restarts: restarts of failed ranks.
        command: arguments of `python` on each rank.
    """

    name: str
    machines: int
    devices_per_machine: int
    hours: float
    accelerator: str | None
    max_restarts: int
    command: tuple[str, ...]

    @property
    def dns_label(self) -> str:
        """The name with the characters of host names."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def torchrun_command(self, head_node: str, run_id: str) -> str:
        """The command of each machine, one word a line. `head` and `run` may be variables of the shell."""
        arguments = [
            f"env TORCH_ELASTIC_SHUTDOWN_TIMEOUT={SHUTDOWN_SECONDS} torchrun",
            f"--nnodes={self.machines}",
            f"--nproc-per-node={self.devices_per_machine}",
            f"--max-restarts={self.max_restarts}",
            f'--rdzv-id="{run_id}"',
            "--rdzv-backend=c10d",
            f'--rdzv-endpoint="{head_node}:{RENDEZVOUS_PORT}"',
            f"--signals-to-handle={','.join(FORWARDED_SIGNALS)}",
        ]
        return " \\\n  ".join([*arguments, shlex.join(self.command)])


def cluster_job(plan: Plan, recipe_file: str, overrides: tuple[str, ...], runs_folder: str) -> ClusterJob:
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
    command = ("-m", "groundup.cli", "run", recipe_file, "--runs", runs_folder)
    command += tuple(word for knob in overrides for word in ("--set", knob))
    return ClusterJob(
        plan.recipe.name, total // devices, devices, plan.seconds / 3600,
        None if hardware.startswith("cpu") else hardware.upper(), machine.max_restarts, command,
    )  # fmt: skip


def render_slurm(job: ClusterJob) -> str:
    """A Slurm batch script, which requeues itself before its time limit."""
    gpus = f"#SBATCH --gpus-per-node={job.devices_per_machine}\n" if job.accelerator else ""
    return f"""#!/bin/bash
# {job.name}: {job.machines} machines of {job.devices_per_machine} devices. Submit it with: sbatch THIS_FILE
# The run folder must be on a file system that all machines share.
#SBATCH --job-name={job.dns_label}
#SBATCH --nodes={job.machines}
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --exclusive
#SBATCH --time={_slurm_time(job.hours)}
#SBATCH --signal=B:USR1@{SHUTDOWN_SECONDS}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job.dns_label}-%j.log
#CHANGE: --partition and --account, if your cluster needs them: ##SBATCH --partition=...
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 {job.torchrun_command("$head", "$SLURM_JOB_ID")} &
run=$!

# Before the time limit: let the ranks save a checkpoint, and continue in another job.
requeue() {{
  kill -USR1 "$run"
  wait "$run" || true
  scontrol requeue "$SLURM_JOB_ID"
}}
trap requeue USR1
wait "$run"
"""


def render_kubernetes(job: ClusterJob) -> str:
    """A JobSet (https://jobset.sigs.k8s.io): one indexed job with a pod for each machine."""
    head = f"{job.dns_label}-machine-0-0.{job.dns_label}"
    gpus = f"""
                  resources:
                    limits:
                      nvidia.com/gpu: {job.devices_per_machine}""" if job.accelerator else ""  # fmt: skip
    command = job.torchrun_command(head, job.dns_label).replace("\n", "\n" + 22 * " ")
    return f"""# {job.name}: {job.machines} machines of {job.devices_per_machine} devices.
# Submit it with: kubectl apply -f THIS_FILE
# The recipe and the run folder are on the claimed volume, which all pods share (ReadWriteMany).
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {job.dns_label}
spec:
  failurePolicy:
    maxRestarts: {job.max_restarts}
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
    subdomain: {job.dns_label}
  replicatedJobs:
    - name: machine
      replicas: 1
      template:
        spec:
          parallelism: {job.machines}
          completions: {job.machines}
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: {SHUTDOWN_SECONDS}
              containers:
                - name: groundup
                  image: CHANGE/groundup:latest
                  workingDir: /work
                  command: [bash, -c]
                  args:
                    - |
                      exec {command}
                  ports:
                    - containerPort: {RENDEZVOUS_PORT}{gpus}
                  volumeMounts:
                    - name: work
                      mountPath: /work
                    - name: shared-memory
                      mountPath: /dev/shm
              volumes:
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
    command = job.torchrun_command("$head", "$SKYPILOT_TASK_ID").replace("\n", "\n  ")
    return f"""# {job.name}: {job.machines} machines of {job.devices_per_machine} devices.
# Submit it with: sky launch -c {job.dns_label} THIS_FILE
# The run folder must be on a file system that all machines share, with locks and renames: not a mounted bucket.
name: {job.dns_label}

num_nodes: {job.machines}

resources:
  {hardware}

workdir: .

setup: |
  pip install "CHANGE[all]"  # URL or path of groundup

run: |
  head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
  exec {command}
"""


JOB_FORMATS = {"slurm": render_slurm, "kubernetes": render_kubernetes, "skypilot": render_skypilot}
FILE_SUFFIXES = {"slurm": "sbatch", "kubernetes": "jobset.yaml", "skypilot": "sky.yaml"}


def _slurm_time(hours: float) -> str:
    """1.5 times the planned hours, at least one, in the format of Slurm: days-hours:minutes:seconds."""
    minutes = max(60, math.ceil(1.5 * hours * 60))
    return f"{minutes // 1440}-{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00"
