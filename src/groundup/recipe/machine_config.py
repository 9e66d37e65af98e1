"""[machine]: where the run happens. Recorded, never part of what the run is: no change here makes anything stale."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob
from groundup.recipe.layout_config import LayoutConfig


class MachineConfig(BaseConfig):
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps; auto takes an accelerator when there is one")
    devices: int | None = knob(
        None,
        "devices of this machine that work together, one process each; derived: as many as machine.layout names",
        ge=1,
    )
    max_restarts: int = knob(
        3, "times that the processes are started again after one died, without a checkpoint in between", ge=0
    )
    stall_timeout_minutes: float = knob(
        1.0, "time without a step after which a run on several devices tells who waits for whom", gt=0
    )
    threads: int | None = knob(
        None, "CPU threads of a process; default: its share of all that may be used", ge=1
    )
    micro_batch_size: int | None = knob(
        None,
        "sequences in one forward pass; default: as many as are quick and fit. The effective batch stays what the "
        "recipe says",
        ge=1,
    )
    activation_checkpointing: Literal["none", "selective", "full"] = knob(
        "none",
        "forget what blocks computed and compute it again: all of it, or all but matrix products; saves memory, costs "
        "time, and changes no number",
    )
    compile: Literal["auto", "always", "never"] = knob(
        "auto", "compile the training step; auto: when the run is long enough to win the time back"
    )
    deterministic: bool = knob(
        True,
        "the same bits in every run on an accelerator too; false: attention's gradient in any order, but faster",
    )
    dataloader_threads: int = knob(1, "threads that make training batches ahead of their step; 0: none", ge=0)
    cache_dir: str | None = knob(
        None, "folder for downloads; default: $GROUNDUP_CACHE or the user's cache folder"
    )
    checkpoint_every_minutes: float = knob(
        1.0, "time between checkpoints, from which a killed run continues", gt=0
    )
    keep_checkpoints: int = knob(
        2, "newest checkpoints that stay; with two, a fault in the last leaves one to continue from", ge=1
    )
    keep_checkpoint_every: int | None = knob(
        None, "also keep the checkpoint of every so many steps, and leave it in the finished folder", ge=1
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] | None = knob(
        None, "boards that get copies of the training records; none: tensorboard, where it is installed"
    )
    log_layer_stats_every: int | None = knob(
        None, "steps between two records of each layer's gradient and activation norms; none: never", ge=1
    )
    profile_steps: tuple[int, int] | None = knob(
        None, "first and last step, from 0, of a trace of where the time goes, for a trace viewer"
    )
    layout: LayoutConfig = knob(LayoutConfig(), "how several devices share the work")
    offline: bool = knob(False, "never fetch; a missing input is an error")
    progress: Literal["auto", "bars", "lines", "none"] = knob("auto", "how long work shows how far it is")
