"""[machine]: where the run happens. Recorded, never part of what the run is: no change here makes anything stale."""

from typing import Literal

from groundup.recipe.section import Section, knob


class MachineSection(Section):
    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps; auto takes an accelerator when there is one")
    threads: int | None = knob(None, "CPU threads; default: all that this process may use", ge=1)
    micro_batch: int | None = knob(
        None, "sequences in one forward pass; the effective batch stays what the recipe says", ge=1
    )
    cache: str | None = knob(
        None, "folder for downloads; default: $GROUNDUP_CACHE or the user's cache folder"
    )
    checkpoint_minutes: float = knob(1.0, "time between checkpoints, from which a killed run continues", gt=0)
    offline: bool = knob(False, "never fetch; a missing input is an error")
    progress: Literal["auto", "bars", "lines", "none"] = knob("auto", "how long work shows how far it is")
