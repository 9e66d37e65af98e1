"""The file with which a cluster starts a run on many machines: to be read, completed and submitted by a person.

Each is a pure function of what the plan says. The machines start `torchrun`, which starts the ranks and starts them again
when one dies; the first rank makes what one makes alone. Nothing here is submitted, and nothing is guessed that only
the cluster's owner knows: such places say CHANGE.
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
"""Between being asked to stop and being killed: for the step that runs, and its checkpoint."""

MAX_DEVICES_PER_MACHINE = 8
"""At most, where machine.devices says nothing."""

FORWARDED_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")
"""Handed on to the ranks, which save and end: see train/signals.py."""


SKYPILOT_NAMES = {"A100": "A100-80GB", "RTX-4090": "RTX4090"}
"""Where it calls a device otherwise than the plan does."""


@dataclass(frozen=True)
class ClusterJob:
    """What all kinds of job files need.

    Attributes:
        name: of the recipe.
        machines, devices: how many, and how many devices each has.
        hours: that the plan expects; 0 where it expects nothing.
        accelerator: the plan's name of a device, upper case; None for processors.
        restarts: times that ranks are started again.
        command: what each rank runs, after `python`.
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
        """The name as host names allow it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def torchrun_command(self, head_node: str, run_id: str) -> str:
        """The command of each machine, one word a line. `head` and `run` may be variables of the shell."""
        words = [
            f"env TORCH_ELASTIC_SHUTDOWN_TIMEOUT={SHUTDOWN_SECONDS} torchrun",
            f"--nnodes={self.machines}",
            f"--nproc-per-node={self.devices_per_machine}",
            f"--max-restarts={self.max_restarts}",
            f'--rdzv-id="{run_id}"',
            "--rdzv-backend=c10d",
            f'--rdzv-endpoint="{head_node}:{RENDEZVOUS_PORT}"',
            f"--signals-to-handle={','.join(FORWARDED_SIGNALS)}",
        ]
        return " \\\n  ".join([*words, shlex.join(self.command)])


def cluster_job(plan: Plan, recipe_file: str, overrides: tuple[str, ...], runs_folder: str) -> ClusterJob:
    """The job of a derived recipe. Raises UserError when its devices do not fill machines."""
    machine = plan.recipe.machine
    total = planned_devices(plan.recipe)
    devices = machine.devices or min(total, MAX_DEVICES_PER_MACHINE)
    if total % devices:
        raise UserError(
            f"budget.devices = {total}: not a whole number of machines with {devices}",
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
    """A batch script. It asks to be put back into the queue when its time is over before the run is."""
    gpus = f"#SBATCH --gpus-per-node={job.devices_per_machine}\n" if job.accelerator else ""
    return f"""#!/bin/bash
# {job.name}: {job.machines} machines with {job.devices_per_machine} devices each. Submit it with: sbatch THIS_FILE
# The folder of runs must be on a disk that all machines share.
#SBATCH --job-name={job.dns_label}
#SBATCH --nodes={job.machines}
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --exclusive
#SBATCH --time={_slurm_time(job.hours)}
#SBATCH --signal=B:USR1@{SHUTDOWN_SECONDS}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job.dns_label}-%j.log
#CHANGE --partition and --account, where your cluster has them: ##SBATCH --partition=...
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 {job.torchrun_command("$head", "$SLURM_JOB_ID")} &
work=$!

# Shortly before the time is over: let the ranks save, and continue in another job.
asked() {{
  kill -USR1 "$work"
  wait "$work" || true
  scontrol requeue "$SLURM_JOB_ID"
}}
trap asked USR1
wait "$work"
"""


def render_kubernetes(job: ClusterJob) -> str:
    """A JobSet (https://jobset.sigs.k8s.io): one indexed job with a pod for each machine."""
    head = f"{job.dns_label}-machine-0-0.{job.dns_label}"
    gpus = f"""
                  resources:
                    limits:
                      nvidia.com/gpu: {job.devices_per_machine}""" if job.accelerator else ""  # fmt: skip
    command = job.torchrun_command(head, job.dns_label).replace("\n", "\n" + 22 * " ")
    return f"""# {job.name}: {job.machines} machines with {job.devices_per_machine} devices each.
# Submit it with: kubectl apply -f THIS_FILE
# The recipe and the folder of runs are on the claimed volume, which all pods share (ReadWriteMany).
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
    """A task of SkyPilot (https://docs.skypilot.co/en/latest/reference/yaml-spec.html)."""
    hardware = (
        f"accelerators: {SKYPILOT_NAMES.get(job.accelerator, job.accelerator)}:{job.devices_per_machine}\n  network_tier: best"
        if job.accelerator
        else f"cpus: {job.devices_per_machine}+"
    )
    command = job.torchrun_command("$head", "$SKYPILOT_TASK_ID").replace("\n", "\n  ")
    return f"""# {job.name}: {job.machines} machines with {job.devices_per_machine} devices each.
# Submit it with: sky launch -c {job.dns_label} THIS_FILE
# The folder of runs must be on a disk that all machines share, with locks and renames: a mounted bucket is none.
name: {job.dns_label}

num_nodes: {job.machines}

resources:
  {hardware}

workdir: .

setup: |
  pip install "CHANGE to where groundup is[all]"

run: |
  head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
  exec {command}
"""


JOB_FORMATS = {"slurm": render_slurm, "kubernetes": render_kubernetes, "skypilot": render_skypilot}
FILE_SUFFIXES = {"slurm": "sbatch", "kubernetes": "jobset.yaml", "skypilot": "sky.yaml"}


def _slurm_time(hours: float) -> str:
    """Half as long again as planned, and at least an hour, as Slurm writes it: days-hours:minutes:seconds."""
    minutes = max(60, math.ceil(1.5 * hours * 60))
    return f"{minutes // 1440}-{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00"
