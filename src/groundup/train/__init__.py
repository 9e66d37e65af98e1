"""10. Learning: one loop that can be read, and that can be killed at any moment.

Reading order: `order` and `sequences` (what is seen when), `batches` (tokens from the shards, a pure function of the
step), `hidden` (the same, with tokens hidden), `prefetch` (made ahead), `objectives` (the loss), `schedule` (the
learning rate), `optimizer` (which weights move how), `engines/` (one step, on one device or many), `checkpoints` (what a
killed run continues from), `journal` (what happened), `heap` (memory that stays), `loop` (the only one), `stage`.

Deliberately absent: a second loop. Fine-tuning brings a loss and its batches.
"""

from groundup.train.engines import Engine, NativeEngine, build_engine
from groundup.train.objectives import NEXT_TOKEN, UNSHIFTED, Objective
from groundup.train.training_loop import TrainResult, run_training_loop

__all__ = [
    "NEXT_TOKEN",
    "UNSHIFTED",
    "Engine",
    "NativeEngine",
    "Objective",
    "TrainResult",
    "build_engine",
    "run_training_loop",
]
